//! Routing under a simulated clock: whom it asks, and whom it leaves alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::catalogue::{
    Candidate, Credential, Deployed, Deployment, DeploymentId, FoundModel, ModelProvider, SoldModel,
};
use domain::routing::{
    Affinity, AttemptFailure, AttemptPermit, Breaker, Gate, GiveUp, HostOutcome, Need, Next, Plan,
    RetryBudget, Standings, after, plan, retry_after, session_key,
};
use domain::{AccountId, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::config;

const SECOND: i64 = 1_000_000;

/// Deployments 1, 2, ... with these quota groups and weights.
fn found(of: &[(&str, u32)]) -> FoundModel {
    let served = of.iter().zip(1_u32..).map(|((group, weight), id)| Candidate {
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
        priority: id % 2,
    });
    let model = Arc::new(SoldModel { max_input: 1, ..SoldModel::default() });
    FoundModel { name: "model".into(), card: "model".into(), model, served: served.collect() }
}

/// Routing, and what is known of it from outside.
struct World {
    found: FoundModel,
    standings: Standings,
    retries: RetryBudget,
    now: i64,
    /// Until when nobody may ask a group.
    cools: BTreeMap<Arc<str>, i64>,
    /// Seconds of first attempts and of others.
    attempts: [Vec<i64>; 2],
    probes: BTreeSet<DeploymentId>,
    running: Vec<(Plan, AttemptPermit)>,
}

impl World {
    fn new(found: FoundModel) -> Self {
        World {
            found,
            standings: Standings::default(),
            retries: RetryBudget::default(),
            now: 1_000 * SECOND,
            cools: BTreeMap::new(),
            attempts: [Vec::new(), Vec::new()],
            probes: BTreeSet::new(),
            running: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn plan(&self, by: Affinity) -> Plan {
        let need = Need { model: Arc::clone(&self.found.model), ..Need::default() };
        plan(&self.found, need, &self.standings, by)
    }

    /// A call begins; who is asked.
    fn call(&mut self, by: Affinity) -> Option<DeploymentId> {
        let (mut plan, now) = (self.plan(by), self.now());
        let next = plan.next(&mut self.standings, &mut self.retries, now);
        self.follow(plan, next, true)
    }

    fn follow(&mut self, plan: Plan, next: Next, is_first: bool) -> Option<DeploymentId> {
        match next {
            Next::Try { permit, .. } => {
                let id = permit.served.by.id;
                let group = permit.served.by.credential.quota_group();
                let cools = self.cools.get(group).is_some_and(|until| *until > self.now);
                assert!(!cools, "{group} is asked while it cools");
                assert!(!permit.is_probe() || self.probes.insert(id), "{id:?} is probed twice");
                self.attempts[usize::from(!is_first)].push(self.now / SECOND);
                self.running.push((plan, permit));
                Some(id)
            }
            Next::Wait(until) => {
                assert!(until > self.now() && until.micros() - self.now <= SECOND);
                None
            }
            Next::GiveUp(GiveUp::Busy { until }) => {
                assert!(until > self.now());
                None
            }
            Next::GiveUp(GiveUp::Nobody) => {
                let off = self.standings.credentials_off().count()
                    + self.standings.deployments_off().count();
                assert!(off >= self.found.served.len(), "somebody could be asked");
                None
            }
            Next::GiveUp(_) => None,
        }
    }

    /// A running call ends; who is asked after it.
    fn end(&mut self, place: usize, failure: Option<AttemptFailure>) -> Option<DeploymentId> {
        let (mut plan, permit) = self.running.swap_remove(place);
        if permit.is_probe() {
            self.probes.remove(&permit.served.by.id);
        }
        let Some(failure) = failure else {
            self.standings.succeeded(&permit, SECOND, self.now());
            return None;
        };
        if let AttemptFailure::RateLimited { told_micros } = failure {
            let micros = told_micros.unwrap_or(SECOND).clamp(SECOND, 60 * SECOND);
            let until = self.cools.entry(Arc::clone(permit.served.by.credential.quota_group()));
            let until = until.or_default();
            *until = (*until).max(self.now + micros);
        }
        let now = self.now();
        let next = after(failure, &permit, &mut plan, &mut self.standings, &mut self.retries, now);
        self.follow(plan, next, false)
    }

    /// In any ten seconds no more is asked again than the budget has.
    fn judge(&self) {
        let [calls, retries] = &self.attempts;
        for last in retries {
            let count = |of: &[i64]| of.iter().filter(|at| (last - 9..=*last).contains(at)).count();
            assert!(count(retries) <= count(calls) / 10 + 3, "in the ten seconds before {last}");
        }
    }
}

/// A step: how long after the last one, and what happens.
#[derive(Clone, Debug)]
enum Step {
    Call(u64, bool),
    End(prop::sample::Index, Option<AttemptFailure>),
    Drop(prop::sample::Index),
    Mend(u32),
}

fn failure() -> impl Strategy<Value = AttemptFailure> {
    let texts = ["0", "1", "59", "3600", "soon", "Thu, 01 Jan 1970 00:20:00 GMT"];
    let limited = prop::sample::select(texts.to_vec()).prop_map(|text| {
        let told_micros = retry_after(text, Timestamp::from_micros(1_000 * SECOND));
        AttemptFailure::RateLimited { told_micros }
    });
    prop_oneof![
        4 => limited,
        4 => Just(AttemptFailure::Unreachable),
        4 => Just(AttemptFailure::Broken),
        1 => Just(AttemptFailure::Refused),
        1 => Just(AttemptFailure::OutOfMoney),
        1 => Just(AttemptFailure::NoSuchModel),
        1 => Just(AttemptFailure::NotServed),
        1 => Just(AttemptFailure::Callers),
        1 => Just(AttemptFailure::ClientGone),
    ]
}

fn step() -> impl Strategy<Value = (i64, Step)> {
    let step = prop_oneof![
        6 => (any::<u64>(), any::<bool>()).prop_map(|(key, is_session)| Step::Call(key, is_session)),
        6 => (any::<prop::sample::Index>(), prop::option::weighted(0.7, failure()))
            .prop_map(|(place, failure)| Step::End(place, failure)),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (1..7_u32).prop_map(Step::Mend),
    ];
    (prop_oneof![3 => 0..SECOND / 10, 1 => 0..8 * SECOND], step)
}

const SIX: [(&str, u32); 6] = [("a", 8), ("a", 8), ("b", 4), ("b", 2), ("c", 1), ("d", 1)];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nobody_is_asked_who_cools_and_retries_stay_in_their_budget(steps in vec(step(), 1..80)) {
        let mut world = World::new(found(&SIX));
        for (micros, step) in steps {
            world.now += micros;
            let count = world.running.len().max(1);
            let place = |index: &prop::sample::Index| index.index(count);
            match step {
                Step::Call(key, is_session) => {
                    let by = if is_session { Affinity::Session(key) } else { Affinity::Chance(key) };
                    world.call(by);
                }
                Step::End(index, failure) if !world.running.is_empty() => {
                    world.end(place(&index), failure);
                }
                Step::Drop(index) if !world.running.is_empty() => {
                    let (_, permit) = world.running.swap_remove(place(&index));
                    world.probes.remove(&permit.served.by.id);
                    world.standings.dropped(&permit, world.now());
                }
                Step::Mend(id) => world.standings.enable_credential(&format!("key-{id}")),
                Step::End(..) | Step::Drop(_) => {}
            }
        }
        world.judge();
        for served in world.found.served.clone() {
            let of = |(_, permit): &&(Plan, AttemptPermit)| permit.served.by.id == served.by.id;
            let running = world.running.iter().filter(of).count();
            prop_assert_eq!(usize::try_from(world.standings.in_flight(served.by.id)).unwrap(), running);
        }
    }

    /// A breaker against one that keeps every call.
    #[test]
    fn a_breaker_does_what_its_model_does(
        steps in vec((0..4 * SECOND, 0..4_u8, 0..3_u8), 1..120),
    ) {
        let (mut breaker, mut now) = (Breaker::default(), 1_000 * SECOND);
        // The calls; until when it is open, for how long; whether a probe runs.
        let (mut calls, mut open, mut probe) = (Vec::new(), None::<(i64, i64)>, false);
        let mut in_a_row = 0;
        for (micros, kind, outcome) in steps {
            now += micros;
            let at = Timestamp::from_micros(now);
            let expected = match open {
                None => Gate::Go,
                Some((until, _)) if until <= now && !probe => Gate::Probe,
                Some((until, _)) => Gate::Shut(Timestamp::from_micros(until.max(now + SECOND))),
            };
            prop_assert_eq!(breaker.gate(at), expected);
            if kind == 0 {
                if expected == Gate::Probe {
                    breaker.probe();
                    probe = true;
                }
                continue;
            }
            let was_probe = kind == 1 && probe;
            let outcome = [HostOutcome::Well, HostOutcome::Failed, HostOutcome::Neutral]
                [usize::from(if kind == 3 { 1 } else { outcome })];
            breaker.ended(outcome, was_probe, at);
            if outcome != HostOutcome::Neutral {
                calls.push((now / SECOND, outcome == HostOutcome::Failed));
                in_a_row = if outcome == HostOutcome::Failed { in_a_row + 1 } else { 0 };
            }
            if was_probe {
                probe = false;
                match (outcome, open) {
                    (HostOutcome::Well, _) => {
                        open = None;
                        calls.clear();
                    }
                    (HostOutcome::Failed, Some((_, long))) => {
                        let long = (long * 2).min(60 * SECOND);
                        open = Some((now + long, long));
                    }
                    _ => {}
                }
            } else if open.is_none() && outcome == HostOutcome::Failed {
                let recent = calls.iter().filter(|(second, _)| now / SECOND - second < 20);
                let failed = recent.clone().filter(|(_, failed)| *failed).count();
                if in_a_row >= 5 || (failed >= 10 && failed * 2 > recent.count()) {
                    open = Some((now + 5 * SECOND, 5 * SECOND));
                }
            }
        }
    }
}

fn session(number: u64) -> Affinity {
    Affinity::Session(session_key(AccountId(1), &number.to_le_bytes()))
}

#[test]
fn sessions_stay_where_they_are() {
    let mut found = found(&SIX);
    for served in &mut found.served {
        served.priority = 0;
    }
    let fewer = FoundModel {
        served: found.served.iter().filter(|one| one.by.id.0 != 3).cloned().collect(),
        ..found.clone()
    };
    let mut world = World::new(found);
    let mut home = BTreeMap::new();
    let mut away = 0;
    for turn in 0..20_u64 {
        for number in 0..1_000 {
            world.now += SECOND / 1_000;
            let asked = world.call(session(number * 7 % 1_000)).unwrap();
            away += u64::from(*home.entry(number).or_insert(asked) != asked);
            // 64 calls run at any time.
            if world.running.len() > 64 {
                let place = usize::try_from(turn + number).unwrap() % 64;
                world.end(place, None);
            }
        }
    }
    assert!(away <= 200, "{away} of 20,000 turns are away from home");
    // Without load only the sessions of the one that goes move.
    let idle = World::new(world.found.clone());
    let less = World::new(fewer);
    let mut moved = 0;
    for number in 0..1_000 {
        let before = idle.plan(session(number)).order()[0].by.id;
        let now = less.plan(session(number)).order()[0].by.id;
        moved += u64::from(before != now);
        assert!(before == now || before.0 == 3);
    }
    assert!((100..250).contains(&moved), "{moved}");
}

#[test]
fn a_dead_deployment_is_hardly_noticed() {
    // From the beginning, or after it has served many calls.
    one_dies_before(0);
    one_dies_before(5_000);
}

fn one_dies_before(last_breath: u64) {
    let mut world = World::new(found(&[("a", 1), ("b", 1), ("c", 1)]));
    for served in &mut world.found.served {
        served.priority = 0;
    }
    let (calls, mut answered) = (20_000_u64, 0_u64);
    for number in 0..calls {
        world.now += SECOND / 1_000;
        let mut asked = world.call(session(number));
        while let Some(id) = asked {
            let is_dead = id.0 == 2 && number >= last_breath;
            answered += u64::from(!is_dead);
            asked = world.end(0, is_dead.then_some(AttemptFailure::Unreachable));
        }
    }
    let attempts = world.attempts.iter().map(Vec::len).sum::<usize>();
    assert!(answered * 1_000 >= calls * 999, "{answered} of {calls}");
    assert!(attempts <= 20_000 * 11 / 10 + 3, "{attempts}");
    world.judge();
}
