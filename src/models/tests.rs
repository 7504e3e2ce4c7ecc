use std::sync::atomic::AtomicI64;

use domain::catalogue::{
    CatalogueDocument, Credential, ModelProvider, ModelTarget, SoldModel, TargetAt,
};
use domain::routing::{AttemptFailure, AttemptOutcome, GiveUp};

use super::*;

const CREDENTIALS: [&str; 2] = ["a", "b"];

fn catalogue() -> Catalogue {
    let provider = ModelProvider { name: "p".into(), ..ModelProvider::default() };
    let credential = |name: &str| Credential {
        name: name.into(),
        provider: "p".into(),
        ..Credential::default()
    };
    let target =
        |name: &str| ModelTarget { at: TargetAt::Credential(name.into()), weight: 1, priority: 0 };
    let document = CatalogueDocument {
        providers: vec![provider],
        credentials: CREDENTIALS.map(credential).to_vec(),
        models: vec![SoldModel {
            name: "m".into(),
            max_input: 1_000,
            max_output: 1_000,
            tokenizer_permille: 1_000,
            targets: CREDENTIALS.map(target).to_vec(),
            ..SoldModel::default()
        }],
        ..CatalogueDocument::default()
    };
    let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
    Catalogue::new(1, document, &ids).unwrap()
}

fn selling(secret: &str) -> Selling {
    let secret: Secret = serde_json::from_value(secret.into()).unwrap();
    let secrets = [(Arc::from("a"), secret)].into();
    Selling::new(catalogue(), PriceBook::default(), secrets)
}

/// The models, a plan of a call, and the clock.
fn world() -> (ModelRegistry, Plan, Clock) {
    let models = ModelRegistry::new(selling("one"));
    let found = models.selling().catalogue.find("m").unwrap();
    let need = Need { model: Arc::clone(&found.model), ..Need::default() };
    let plan = models.plan(&found, need, Affinity::Session(7));
    (models, plan, Clock::Manual(Arc::new(AtomicI64::new(1_000_000_000))))
}

fn asked(step: NextStep) -> RunningAttempt {
    match step {
        NextStep::Ask { attempt, .. } => attempt,
        NextStep::Wait(until) => panic!("waits until {until:?}"),
        NextStep::GiveUp(why) => panic!("{why:?}"),
    }
}

fn in_flight(models: &ModelRegistry) -> u32 {
    [1, 2].map(|id| models.routing().standings.in_flight(DeploymentId(id))).iter().sum()
}

#[test]
fn an_attempt_runs_until_it_is_dropped_whatever_happens() {
    let (models, mut plan, clock) = world();
    let attempt = asked(models.next(&mut plan, &clock));
    let id = attempt.served().by.id;
    assert!(models.selling().upstream(id).is_some());
    assert_eq!(in_flight(&models), 1);
    drop(attempt);
    assert_eq!(in_flight(&models), 0);
    let count = |outcome| models.routing().counts.get(&id).unwrap().of(outcome);
    assert_eq!(count(AttemptOutcome::Dropped), 1);
    // A panic while it is asked.
    let (models, mut plan, clock) = world();
    let attempt = asked(models.next(&mut plan, &clock));
    let panicked = std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let _attempt = attempt;
                panic!("on purpose");
            })
            .join()
    });
    assert!(panicked.is_err());
    assert_eq!(in_flight(&models), 0);
    // A stream runs on after its first byte.
    let mut attempt = asked(models.next(&mut plan, &clock));
    attempt.answered(5_000);
    assert_eq!(in_flight(&models), 1);
    drop(attempt);
    assert_eq!(in_flight(&models), 0);
}

#[test]
fn a_failure_leads_to_another_one_and_then_to_the_end() {
    let (models, mut plan, clock) = world();
    let first = asked(models.next(&mut plan, &clock));
    let home = first.served().by.id;
    let second = asked(first.failed(AttemptFailure::Broken, &mut plan));
    assert_ne!(second.served().by.id, home);
    assert_eq!(in_flight(&models), 1);
    let end = second.failed(AttemptFailure::Broken, &mut plan);
    assert!(matches!(end, NextStep::GiveUp(GiveUp::Spent)));
    assert_eq!(in_flight(&models), 0);
}

#[test]
fn a_credential_with_another_secret_is_used_again() {
    let (models, _, clock) = world();
    let found = models.selling().catalogue.find("m").unwrap();
    let off = || models.routing().standings.credentials_off().count();
    for session in 0.. {
        let need = Need { model: Arc::clone(&found.model), ..Need::default() };
        let mut plan = models.plan(&found, need, Affinity::Session(session));
        let attempt = asked(models.next(&mut plan, &clock));
        if &*attempt.served().by.credential.name == "a" {
            drop(attempt.failed(AttemptFailure::OutOfMoney, &mut plan));
            break;
        }
    }
    assert_eq!(off(), 1);
    models.replace(selling("one"));
    assert_eq!(off(), 1, "nothing has changed");
    models.replace(selling("two"));
    assert_eq!(off(), 0);
}
