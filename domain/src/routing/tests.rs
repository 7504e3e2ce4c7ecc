use std::sync::Arc;

use super::*;
use crate::catalogue::{
    Candidate, Credential, Deployed, Deployment, DeploymentId, FoundModel, Modality, ModelProvider,
    ProviderDialect, SoldModel,
};
use crate::window::Timestamp;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// Deployments 1, 2, ... with these quota groups, weights and priorities.
fn found(of: &[(&str, u32, u32)]) -> FoundModel {
    let model = SoldModel { max_input: 1_000, ..SoldModel::default() };
    let served = of.iter().zip(1_u32..).map(|((group, weight, priority), id)| Candidate {
        by: Arc::new(Deployed {
            id: DeploymentId(id),
            deployment: Deployment::default(),
            credential: Arc::new(Credential {
                name: format!("key-{id}").into(),
                quota_group: Some((*group).into()),
                ..Credential::default()
            }),
            provider: Arc::new(ModelProvider::default()),
        }),
        upstream_model: "model".into(),
        weight: *weight,
        priority: *priority,
    });
    FoundModel {
        name: "model".into(),
        card: "model".into(),
        model: Arc::new(model),
        served: served.collect(),
    }
}

struct World {
    found: FoundModel,
    standings: Standings,
    retries: RetryBudget,
}

impl World {
    fn new(of: &[(&str, u32, u32)]) -> Self {
        let (standings, retries) = (Standings::default(), RetryBudget::default());
        World { found: found(of), standings, retries }
    }

    fn need(&self) -> Need {
        Need { model: Arc::clone(&self.found.model), ..Need::default() }
    }

    fn plan(&self, need: Need) -> Plan {
        plan(&self.found, need, &self.standings, Affinity::Session(5))
    }

    fn next(&mut self, plan: &mut Plan, now: i64) -> Next {
        plan.next(&mut self.standings, &mut self.retries, at(now))
    }

    fn first(&mut self, now: i64) -> (Plan, AttemptPermit) {
        let mut plan = self.plan(self.need());
        let Next::Try { permit, wait_micros: 0 } = self.next(&mut plan, now) else {
            panic!("nobody is asked");
        };
        (plan, permit)
    }

    fn fail(
        &mut self,
        plan: &mut Plan,
        permit: &AttemptPermit,
        failure: AttemptFailure,
        now: i64,
    ) -> Next {
        after(failure, permit, plan, &mut self.standings, &mut self.retries, at(now))
    }
}

/// Whom it asks, after how long; or what else it does.
fn told(next: &Next) -> String {
    match next {
        Next::Try { permit, wait_micros } => format!("{} {wait_micros}", permit.served.by.id.0),
        Next::Wait(until) => format!("wait {}", until.seconds()),
        Next::GiveUp(why) => format!("{why:?}"),
    }
}

const UNTOLD: AttemptFailure = AttemptFailure::RateLimited { told_micros: None };

#[test]
fn a_failure_decides_who_is_asked_next() {
    // The second one is of the first one's quota group, the third one of another priority.
    for (failure, next) in [
        (AttemptFailure::Unreachable, "2 0"),
        (AttemptFailure::Broken, "2 0"),
        (UNTOLD, "3 0"),
        (AttemptFailure::OutOfMoney, "2 0"),
        (AttemptFailure::Refused, "2 0"),
        (AttemptFailure::NoSuchModel, "2 0"),
        (AttemptFailure::NotServed, "2 0"),
        (AttemptFailure::ContextTooLong, "ContextTooLong"),
        (AttemptFailure::Policy, "Policy"),
        (AttemptFailure::Callers, "Callers"),
        (AttemptFailure::ClientGone, "Callers"),
    ] {
        let mut world = World::new(&[("a", 1, 0), ("a", 1, 1), ("b", 1, 2)]);
        let (mut plan, permit) = world.first(100);
        assert_eq!(permit.served.by.id, DeploymentId(1));
        let after = world.fail(&mut plan, &permit, failure, 100);
        assert_eq!(told(&after), next, "{failure:?}");
        assert_eq!(world.standings.in_flight(DeploymentId(1)), 0);
    }
}

#[test]
fn the_only_one_is_asked_again_if_it_was_unreachable() {
    let mut world = World::new(&[("a", 1, 0)]);
    let (mut plan, mut permit) = world.first(100);
    for expected in ["1 50000", "1 100000"] {
        let next = world.fail(&mut plan, &permit, AttemptFailure::Unreachable, 100);
        assert_eq!(told(&next), expected);
        let Next::Try { permit: other, .. } = next else { panic!() };
        permit = other;
    }
    let next = world.fail(&mut plan, &permit, AttemptFailure::Unreachable, 100);
    assert_eq!(told(&next), "Spent");
    let (mut plan, permit) = world.first(100);
    let next = world.fail(&mut plan, &permit, AttemptFailure::Broken, 100);
    assert_eq!(told(&next), "Spent");
}

#[test]
fn if_all_cool_a_call_waits_a_second_once_or_is_told_the_soonest() {
    let mut world = World::new(&[("a", 1, 0), ("b", 1, 1)]);
    let (mut plan, permit) = world.first(100);
    let told_micros = Some(30_000_000);
    let limited = AttemptFailure::RateLimited { told_micros };
    let Next::Try { permit, .. } = world.fail(&mut plan, &permit, limited, 100) else { panic!() };
    // One second of its own accord.
    let next = world.fail(&mut plan, &permit, UNTOLD, 100);
    assert_eq!(told(&next), "wait 101");
    let Next::Try { permit, .. } = world.next(&mut plan, 101) else { panic!() };
    assert_eq!(permit.served.by.id, DeploymentId(2));
    let next = world.fail(&mut plan, &permit, UNTOLD, 101);
    assert_eq!(told(&next), "Spent");
    let mut other = world.plan(world.need());
    assert_eq!(world.next(&mut other, 101), Next::GiveUp(GiveUp::Busy { until: at(103) }));
    assert_eq!(told(&world.next(&mut other, 102)), "wait 103");
    assert_eq!(told(&world.next(&mut other, 103)), "2 0");
}

#[test]
fn a_credential_is_off_after_three_refusals_in_a_row() {
    let mut world = World::new(&[("a", 1, 0)]);
    for number in 1..=3 {
        let (mut plan, permit) = world.first(100);
        let next = world.fail(&mut plan, &permit, AttemptFailure::Refused, 100);
        assert_eq!(told(&next), "Spent", "{number}");
        if number == 2 {
            let (_, permit) = world.first(100);
            world.standings.succeeded(&permit, 9, at(100));
        }
    }
    for _ in 0..2 {
        let (mut plan, permit) = world.first(100);
        let _ = world.fail(&mut plan, &permit, AttemptFailure::Refused, 100);
    }
    let mut refused = world.plan(world.need());
    assert_eq!(told(&world.next(&mut refused, 100)), "Nobody");
    assert_eq!(world.standings.credentials_off().count(), 1);
    world.standings.enable_credential("key-1");
    let _ = world.first(100);
}

#[test]
fn the_last_deployment_is_asked_though_its_breaker_is_open() {
    let mut world = World::new(&[("a", 1, 0), ("b", 1, 1)]);
    for _ in 0..5 {
        let (mut plan, permit) = world.first(100);
        let next = world.fail(&mut plan, &permit, AttemptFailure::Broken, 100);
        if let Next::Try { permit, .. } = next {
            world.standings.succeeded(&permit, 9, at(100));
        }
    }
    // The first one is open, so the other one is asked.
    let (mut plan, permit) = world.first(101);
    assert_eq!(permit.served.by.id, DeploymentId(2));
    assert_eq!(
        told(&world.fail(&mut plan, &permit, AttemptFailure::Broken, 101)),
        "Busy { until: Timestamp(105000000) }"
    );
    // Without the other one it is asked again, and not as a probe.
    world.found.served.truncate(1);
    let (_, permit) = world.first(102);
    assert!(permit.served.by.id == DeploymentId(1) && !permit.is_probe());
    // After its time one probe; if it is cancelled, another one.
    world.standings.dropped(&permit, at(102));
    for _ in 0..2 {
        let (_, permit) = world.first(105);
        assert!(permit.is_probe());
        let (_, other) = world.first(105);
        assert!(!other.is_probe());
        world.standings.dropped(&other, at(105));
        world.standings.dropped(&permit, at(105));
    }
    world.standings.reset(&permit.served.by);
    assert!(!world.first(105).1.is_probe());
}

#[test]
fn who_does_not_fit_is_not_asked_and_the_plan_says_why() {
    type Change = fn(&mut Need, &mut Deployed);
    let cases: [(Excluded, Change); 9] = [
        (Excluded::Disabled, |_, by| by.deployment.is_disabled = true),
        (Excluded::Pinned, |need, _| need.pinned = Some(DeploymentId(9))),
        (Excluded::Dialect, |need, _| need.dialects = vec![ProviderDialect::Gemini]),
        (Excluded::Context, |need, _| need.input = 1_001),
        (Excluded::Modality, |need, _| need.modalities = vec![Modality::Text, Modality::Audio]),
        (Excluded::Region, |need, _| need.region = Some("eu".into())),
        (Excluded::AtALoss, |need, _| need.at_a_loss = vec![DeploymentId(1)]),
        (Excluded::Concurrency, |_, by| by.deployment.concurrency = Some(1)),
        (Excluded::Rate, |_, by| by.deployment.rpm = Some(1)),
    ];
    for (reason, change) in cases {
        let mut world = World::new(&[("a", 1, 0)]);
        let _ = world.first(100);
        let mut need = world.need();
        change(&mut need, Arc::make_mut(&mut world.found.served[0].by));
        let mut plan = world.plan(need);
        let excluded: Vec<_> = plan.excluded(&world.standings, at(100)).collect();
        assert_eq!(excluded, [(DeploymentId(1), Some(reason))]);
        assert_eq!(told(&world.next(&mut plan, 100)), "Nobody", "{reason:?}");
    }
    // A minute later it may be asked again; tokens count like calls.
    let mut world = World::new(&[("a", 1, 0)]);
    Arc::make_mut(&mut world.found.served[0].by).deployment.tpm = Some(100);
    let need = Need { input: 60, output: 41, ..world.need() };
    for (now, expected) in [(100, "1 0"), (159, "Nobody"), (160, "1 0")] {
        let mut plan = world.plan(need.clone());
        assert_eq!(told(&world.next(&mut plan, now)), expected, "{now}");
    }
}

#[test]
fn what_is_asked_for_nothing_teaches_nothing_and_takes_no_room() {
    let mut world = World::new(&[("a", 1, 0)]);
    Arc::make_mut(&mut world.found.served[0].by).deployment.rpm = Some(1);
    let aside = Need { is_aside: true, ..world.need() };
    for failure in [
        UNTOLD,
        AttemptFailure::Refused,
        AttemptFailure::Refused,
        AttemptFailure::Refused,
        AttemptFailure::OutOfMoney,
        AttemptFailure::NoSuchModel,
        AttemptFailure::Broken,
        AttemptFailure::Unreachable,
    ] {
        for _ in 0..6 {
            let mut plan = world.plan(aside.clone());
            let Next::Try { permit, .. } = world.next(&mut plan, 100) else {
                panic!("{failure:?}")
            };
            assert_eq!(world.standings.in_flight(DeploymentId(1)), 0);
            let _ = world.fail(&mut plan, &permit, failure, 100);
        }
    }
    let (_, permit) = world.first(100);
    assert_eq!(world.standings.in_flight(DeploymentId(1)), 1);
    world.standings.succeeded(&permit, 1, at(100));
    // It has answered, so it has the model.
    let mut plan = world.plan(world.need());
    let Next::Try { permit, .. } = world.next(&mut plan, 160) else { panic!("nobody") };
    let _ = world.fail(&mut plan, &permit, AttemptFailure::NoSuchModel, 160);
    assert_eq!(world.standings.deployments_off().count(), 0);
}

#[test]
fn who_is_shed_leaves_the_last_tenth_to_others() {
    for (most, room, room_of_all) in [(1, 1, 1), (9, 9, 9), (10, 9, 10), (25, 23, 25)] {
        for (is_shed, room) in [(true, room), (false, room_of_all)] {
            let mut world = World::new(&[("a", 1, 0)]);
            Arc::make_mut(&mut world.found.served[0].by).deployment.concurrency = Some(most);
            let need = Need { is_shed, ..world.need() };
            let mut begun = 0;
            while told(&world.next(&mut world.plan(need.clone()), 100)) == "1 0" {
                begun += 1;
            }
            assert_eq!(begun, room, "{most} {is_shed}");
        }
    }
}

#[test]
fn a_session_leaves_an_overloaded_deployment_and_chance_takes_the_less_loaded() {
    let mut world = World::new(&[("a", 1, 0), ("b", 1, 0)]);
    let (_, first) = world.first(100);
    let home = first.served.by.id;
    for _ in 1..45 {
        assert_eq!(world.first(100).1.served.by.id, home);
    }
    // 45 run. A share of 46 is 23; a quarter more is 29, and 16 to spare.
    assert_ne!(world.first(100).1.served.by.id, home);
    for bits in 0..20 {
        let by = Affinity::Chance(bits);
        let plan = plan(&world.found, world.need(), &world.standings, by);
        assert_ne!(plan.order()[0].by.id, home);
    }
}

#[test]
fn the_key_of_a_session_is_of_its_account() {
    let key = |account, name: &str| session_key(AccountId(account), name.as_bytes());
    assert_eq!(key(1, "s"), key(1, "s"));
    assert_ne!(key(1, "s"), key(2, "s"));
    assert_ne!(key(1, "s"), key(1, "t"));
}

#[test]
fn a_stream_runs_until_it_has_ended() {
    let mut world = World::new(&[("a", 1, 0)]);
    Arc::make_mut(&mut world.found.served[0].by).deployment.rpm = Some(3);
    let by = Arc::clone(&world.found.served[0].by);
    assert_eq!(world.standings.health(&by, at(100)).calls_left, Some(3));
    let (_, permit) = world.first(100);
    world.standings.answered(&permit, 7_000, at(101));
    let health = world.standings.health(&by, at(101));
    assert_eq!((health.in_flight, health.first_byte_micros), (1, Some(7_000)));
    assert_eq!((health.gate, health.cooling, health.calls_left), (Gate::Go, None, Some(2)));
    world.standings.finished(&permit, at(101));
    assert_eq!(world.standings.in_flight(by.id), 0);
}

/// Whoever calls chooses the method and the size, so such a failure says nothing of other calls.
#[test]
fn a_call_switches_nothing_off_for_others() {
    let mut world = World::new(&[("a", 1, 0)]);
    for now in 100..110 {
        let (mut plan, permit) = world.first(now);
        let _ = world.fail(&mut plan, &permit, AttemptFailure::NotServed, now);
    }
    assert_eq!(
        (world.standings.credentials_off().count(), world.standings.deployments_off().count()),
        (0, 0)
    );
    // One that has answered knows its model.
    let (_, permit) = world.first(110);
    world.standings.succeeded(&permit, 9, at(110));
    let (mut plan, permit) = world.first(111);
    let _ = world.fail(&mut plan, &permit, AttemptFailure::NoSuchModel, 111);
    assert_eq!(world.standings.deployments_off().count(), 0);
    // One that has not, may not.
    let mut world = World::new(&[("a", 1, 0)]);
    let (mut plan, permit) = world.first(111);
    let _ = world.fail(&mut plan, &permit, AttemptFailure::NoSuchModel, 111);
    assert_eq!(world.standings.deployments_off().count(), 1);
}

/// The tokens of a refused call are free again; those of an answered one count for a minute.
#[test]
fn what_is_refused_uses_no_tokens_up() {
    let mut world = World::new(&[("a", 1, 0)]);
    let limits = Deployment { tpm: Some(100), ..Deployment::default() };
    let by = Deployed { deployment: limits, ..(*world.found.served[0].by).clone() };
    world.found.served[0].by = Arc::new(by);
    let need = Need { input: 40, output: 40, ..world.need() };
    for _ in 0..10 {
        let mut plan = world.plan(need.clone());
        let Next::Try { permit, .. } = world.next(&mut plan, 100) else {
            panic!("nobody is asked");
        };
        // While it runs, there is no room for another one.
        let mut other = world.plan(need.clone());
        assert_eq!(told(&world.next(&mut other, 100)), "Nobody");
        let _ = world.fail(&mut plan, &permit, AttemptFailure::Callers, 100);
    }
    let mut plan = world.plan(need.clone());
    let Next::Try { permit, .. } = world.next(&mut plan, 100) else { panic!("nobody is asked") };
    world.standings.succeeded(&permit, 9, at(100));
    let mut other = world.plan(need.clone());
    assert_eq!(told(&world.next(&mut other, 159)), "Nobody");
    let mut other = world.plan(need);
    assert_eq!(told(&world.next(&mut other, 161)), "1 0");
}
