use super::*;

fn target(at: TargetAt) -> ModelTarget {
    ModelTarget { at, weight: 1, priority: 0 }
}

fn model(name: &str) -> SoldModel {
    SoldModel {
        name: name.into(),
        max_input: 200_000,
        max_output: 128_000,
        tokenizer_permille: 1_000,
        targets: vec![target(TargetAt::Credential("main".into()))],
        ..SoldModel::default()
    }
}

fn document() -> CatalogueDocument {
    let dialect = ProviderDialect::Anthropic;
    CatalogueDocument {
        providers: vec![ModelProvider {
            name: "anthropic".into(),
            dialect,
            ..ModelProvider::default()
        }],
        credentials: vec![Credential {
            name: "main".into(),
            provider: "anthropic".into(),
            quota_group: None,
        }],
        deployments: vec![Deployment {
            name: "opus/eu".into(),
            credential: "main".into(),
            upstream_model: Some("opus-2026".into()),
            ..Deployment::default()
        }],
        models: vec![
            SoldModel { aliases: vec!["opus".into()], ..model("claude-opus-5-5") },
            SoldModel {
                targets: vec![target(TargetAt::Deployment("opus/eu".into()))],
                on_context: vec!["opus".into()],
                ..model("opus-eu")
            },
        ],
        wildcards: vec![Wildcard {
            pattern: "any/*".into(),
            credential: "main".into(),
            upstream_model: Some("x/$1".into()),
            model: SoldModel { name: "".into(), targets: vec![], ..model("") },
        }],
    }
}

fn ids(document: &CatalogueDocument) -> BTreeMap<Arc<str>, DeploymentId> {
    document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect()
}

fn faults(document: CatalogueDocument) -> Vec<String> {
    let ids = ids(&document);
    let faults = Catalogue::new(1, document, &ids).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_model_is_found_by_its_name_its_alias_or_a_pattern() {
    let document = document();
    let names = ["any/*/main", "claude-opus-5-5/main", "opus/eu"];
    assert_eq!(document.deployment_names(), names.map(Arc::<str>::from));
    let ids = ids(&document);
    let catalogue = Catalogue::new(42, document, &ids).unwrap();
    assert_eq!((catalogue.revision(), catalogue.models().count()), (42, 2));
    for (name, public, card, upstream, id) in [
        ("claude-opus-5-5", "claude-opus-5-5", "claude-opus-5-5", "claude-opus-5-5", 2),
        ("opus", "claude-opus-5-5", "claude-opus-5-5", "claude-opus-5-5", 2),
        ("opus-eu", "opus-eu", "opus-eu", "opus-2026", 3),
        ("any/thing/else", "any/thing/else", "any/*", "x/thing/else", 1),
    ] {
        let found = catalogue.find(name).unwrap();
        assert_eq!((&*found.name, &*found.card, &*found.model.name), (public, card, public));
        let served = &found.served[0];
        assert_eq!((&*served.upstream_model, served.by.id), (upstream, DeploymentId(id)));
        assert_eq!(catalogue.deployment(served.by.id), Some(&served.by));
        assert_eq!(served.by.convention(), Convention::ANTHROPIC);
        assert_eq!(&**served.by.credential.quota_group(), "main");
    }
    for name in ["", "any/", "any/Thing", "other", "opus-"] {
        assert_eq!(catalogue.find(name), None, "{name}");
    }
    assert_eq!(catalogue.deployments().count(), 3);
}

#[test]
fn a_name_of_its_own_goes_before_a_pattern() {
    let mut document = document();
    document.models[0].aliases.push("any/alias".into());
    let ids = ids(&document);
    let catalogue = Catalogue::new(1, document, &ids).unwrap();
    for (name, card) in [("any/alias", "claude-opus-5-5"), ("any/other", "any/*")] {
        assert_eq!(&*catalogue.find(name).unwrap().card, card);
    }
}

#[test]
fn all_faults_are_told_at_once_with_their_places() {
    let mut faulty = document();
    faulty.providers.push(faulty.providers[0].clone());
    faulty.credentials[0].provider = "openai".into();
    faulty.credentials[0].quota_group = Some("A".into());
    faulty.deployments[0].name = "Opus".into();
    faulty.deployments[0].rpm = Some(0);
    faulty.models[0].max_output = 0;
    faulty.models[0].aliases.push("opus-eu".into());
    faulty.models[0].targets.push(target(TargetAt::Credential("main".into())));
    faulty.models[0]
        .targets
        .push(ModelTarget { weight: 0, ..target(TargetAt::Credential("other".into())) });
    faulty.models[1].on_context = vec!["opus-eu".into()];
    faulty.models[1].successor = Some("nothing".into());
    faulty.wildcards[0].pattern = "any*".into();
    faulty.wildcards[0].upstream_model = Some("x".into());
    assert_eq!(
        faults(faulty),
        [
            "providers[1].name: another one has the name anthropic",
            "credentials[0].provider: there is no provider openai",
            "credentials[0].quota_group: must be a name",
            "deployments[0].name: must be 1 to 128 of a-z, 0-9, . _ : / and -, and begin with a \
             letter or a digit",
            "deployments[0].rpm: must be at least 1",
            "models[1].name: another one has the name opus-eu",
            "models[0].max_output: must be at least 1",
            "models[0].targets[1]: another target is the same",
            "models[0].targets[2].credential: there is no credential other",
            "models[0].targets[2].weight: must be 1 to 100",
            "models[1].targets[0].deployment: there is no deployment opus/eu",
            "models[1].on_context[0]: must be another model",
            "models[1].successor: there is no model nothing",
            "wildcards[0].pattern: must be a name and /*",
            "wildcards[0].upstream_model: must contain $1",
        ]
    );
}

#[test]
fn a_deployment_needs_a_number_and_a_model_somebody_who_serves_it() {
    let document = document();
    let faults = Catalogue::new(1, document.clone(), &BTreeMap::new()).unwrap_err();
    let places: Vec<&str> = faults.iter().map(|fault| &*fault.path).collect();
    assert_eq!(
        places,
        ["deployments[0].name", "models[0].targets[0].credential", "wildcards[0].credential"]
    );
    let mut nobody = document.clone();
    nobody.models[0].targets.clear();
    assert_eq!(self::faults(nobody), ["models[0].targets: must have at least one"]);
    let mut twice = document;
    twice.deployments[0].name = "claude-opus-5-5/main".into();
    twice.models.truncate(1);
    let expected = "models[0].targets[0].credential: there is a deployment \
                    claude-opus-5-5/main: name it instead";
    assert_eq!(self::faults(twice), [expected]);
}

#[test]
fn a_provider_counts_as_its_dialect_unless_it_says_otherwise() {
    use crate::Counted::Beside;
    let own = ModelProvider { thoughts: Some(Beside), ..ModelProvider::default() };
    assert_eq!(own.convention(), Convention::GEMINI);
    assert_eq!(ProviderDialect::Azure.convention(), Convention::OPENAI);
}

#[test]
fn what_goes_to_other_services_is_plain_and_limits_are_bounded() {
    let mut faulty = document();
    faulty.providers[0].region = Some("eu west".into());
    faulty.providers.push(ModelProvider {
        name: "azure".into(),
        dialect: ProviderDialect::Azure,
        ..ModelProvider::default()
    });
    faulty.deployments[0].upstream_model = Some("a\r\nb".into());
    faulty.models[0].max_input = 1_000_000_001;
    faulty.models[0].sells = vec![crate::pricing::Extra::FileUrl, crate::pricing::Extra::FileId];
    assert_eq!(
        faults(faulty),
        [
            "providers[0].region: must be 1 to 256 visible characters of ASCII, without spaces",
            "providers[1].url: is needed: each customer of Azure has an own address",
            "deployments[0].upstream_model: must be 1 to 256 visible characters of ASCII, without \
             spaces",
            "models[0].max_input: must be at most 1000000000",
            "models[0].sells[1]: is never sold: all customers share the credential, so it could \
             name what another one has stored at the provider",
        ]
    );
}

#[test]
fn a_credential_that_cannot_be_used_disables_all_that_it_serves() {
    let mut document = document();
    document.credentials.push(Credential {
        name: "second".into(),
        provider: "anthropic".into(),
        quota_group: None,
    });
    document.models[0].targets.push(target(TargetAt::Credential("second".into())));
    let ids = ids(&document);
    let catalogue = Catalogue::new(1, document, &ids).unwrap();
    let catalogue = catalogue.without(|by| &*by.credential.name == "second");
    let disabled = |name: &str| -> Vec<bool> {
        let found = catalogue.find(name).unwrap();
        found.served.iter().map(|candidate| candidate.by.deployment.is_disabled).collect()
    };
    assert_eq!(disabled("claude-opus-5-5"), [true, false]);
    assert_eq!((disabled("opus-eu"), disabled("any/thing")), (vec![true], vec![true]));
    let all: Vec<bool> = catalogue.deployments().map(|by| by.deployment.is_disabled).collect();
    assert_eq!(all.iter().filter(|is_disabled| **is_disabled).count(), 3);
}
