use serde_json::{Value, json};

use super::{Done, Place, Wanted, config::as_wanted, configuration, ensure};
use crate::{args::BindingEngine, testing::ApiServer};

const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/railbind-webhook";

fn wanted() -> Wanted {
    Wanted {
        name: "railbind-webhook".into(),
        place: Place::Service { name: "railbind-webhook".into(), namespace: "railbind".into(), port: 443 },
        namespace: "railbind".into(),
        binding: BindingEngine::Webhook,
    }
}

#[test]
fn behind_a_service() {
    insta::assert_yaml_snapshot!(configuration(&wanted(), Some("CA")));
}

#[test]
fn at_a_url_without_bindings() {
    let wanted =
        Wanted { place: Place::Url("https://10.0.0.1:8443/x".into()), binding: BindingEngine::Off, ..wanted() };
    let webhooks = configuration(&wanted, Some("CA")).webhooks.unwrap();
    assert_eq!(webhooks.len(), 1);
    assert_eq!(webhooks[0].client_config.url.as_deref(), Some("https://10.0.0.1:8443/x/mutate/pods"));
    assert!(webhooks[0].client_config.service.is_none());
}

#[tokio::test]
async fn written_once_and_again_when_it_is_gone_or_changed() {
    let server = ApiServer::start();
    let config = configuration(&wanted(), Some("CA"));
    let ensure = async |config| ensure(&server.all(), config).await.unwrap().0;
    assert_eq!(ensure(&config).await, Done::Written);
    assert_eq!(ensure(&config).await, Done::Nothing);
    assert_eq!(server.count("PATCH"), 1);
    let query = server.last("PATCH");
    assert!(query.contains("fieldManager=railbind-webhook") && query.contains("force=true"), "{query}");

    server.delete(PATH);
    assert_eq!(ensure(&config).await, Done::Written);

    let mut changed = server.get(PATH).unwrap();
    changed["webhooks"][0]["failurePolicy"] = json!("Fail");
    server.put(PATH, changed);
    assert_eq!(ensure(&config).await, Done::Written);

    assert_eq!(ensure(&configuration(&wanted(), Some("another CA"))).await, Done::Written);
    assert_eq!(server.count("PATCH"), 4);
}

#[tokio::test]
async fn trouble_is_told() {
    let server = ApiServer::start();
    server.fail_with(Some(403));
    let error = ensure(&server.all(), &configuration(&wanted(), Some("CA"))).await.unwrap_err();
    assert_eq!(error.to_string(), "the test wants 403");
}

#[test]
fn what_others_add_is_theirs() {
    let wanted = configuration(&wanted(), Some("CA"));
    let with = |change: fn(&mut Value)| {
        let mut live = serde_json::to_value(&wanted).unwrap();
        change(&mut live);
        as_wanted(&serde_json::from_value(live).unwrap(), &wanted)
    };
    assert!(with(|_| {}));
    assert!(with(|live| live["metadata"]["labels"]["team"] = json!("x")));
    assert!(with(|live| live["webhooks"][1]["objectSelector"] = json!({})));
    let narrower = json!({"key": "control-plane", "operator": "DoesNotExist"});
    assert!(as_wanted(&added(&wanted, narrower), &wanted));
    assert!(!with(|live| live["webhooks"][0]["timeoutSeconds"] = json!(30)));
    assert!(!with(|live| live["webhooks"][0]["namespaceSelector"] = json!({})));
    assert!(!with(|live| live["webhooks"][0]["rules"][0]["operations"] = json!(["CREATE", "UPDATE"])));
    assert!(!with(|live| drop(live["webhooks"].as_array_mut().unwrap().pop())));
    assert!(!with(|live| {
        let mut more = live["webhooks"][0].clone();
        more["name"] = json!("old.railbind.dev");
        live["webhooks"].as_array_mut().unwrap().push(more);
    }));
}

fn added<T: serde::Serialize + serde::de::DeserializeOwned>(config: &T, requirement: Value) -> T {
    let mut live = serde_json::to_value(config).unwrap();
    live["webhooks"][0]["namespaceSelector"]["matchExpressions"].as_array_mut().unwrap().insert(0, requirement);
    serde_json::from_value(live).unwrap()
}
