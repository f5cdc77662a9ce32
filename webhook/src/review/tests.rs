use json_patch::Patch;
use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::{Value, json};

use super::{Answer, MAX_WARNING, MAX_WARNINGS, cut, decode};

fn error(body: &Value) -> String {
    decode(&serde_json::to_vec(body).unwrap()).unwrap_err().to_string()
}

fn answer(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.to_json().unwrap()).unwrap()
}

#[test]
fn what_is_no_review_says_why() {
    assert_eq!(
        decode(b"").unwrap_err().to_string(),
        "not an AdmissionReview: EOF while parsing a value at line 1 column 0"
    );
    assert!(error(&json!([])).starts_with("not an AdmissionReview: invalid length"));
    assert_eq!(error(&json!({})), r#"expected AdmissionReview of admission.k8s.io/v1, got "" of """#);
    assert_eq!(
        error(&json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"})),
        r#"expected AdmissionReview of admission.k8s.io/v1, got "AdmissionReview" of "admission.k8s.io/v1beta1""#
    );
    let bare =
        |request: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    assert_eq!(error(&bare(Value::Null)), "the review has no request");
    assert_eq!(error(&bare(json!({"name": "a"}))), "the review has no request.uid");
    assert!(error(&bare(json!({"uid": 7}))).starts_with("not an AdmissionReview: invalid type: integer `7`"));
}

#[test]
fn the_object_stays_as_it_came() {
    let object = json!({"kind": "Pod", "spec": {"fieldOfTomorrow": [1, null, {"x": 1.5}]}});
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "dryRun": true, "oldObject": null,
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "subResource": "binding",
        "namespace": "ns", "operation": "CREATE", "object": object, "userInfo": {"username": "someone"}}});
    let request = decode(&serde_json::to_vec(&body).unwrap()).unwrap();
    assert_eq!(request.object, object);
    assert_eq!((request.kind.kind.as_str(), request.resource.resource.as_str()), ("Pod", "pods"));
    assert_eq!((request.sub_resource.as_deref(), request.namespace.as_deref()), (Some("binding"), Some("ns")));
    assert_eq!((request.name, request.dry_run, request.operation.as_str()), (None, Some(true), "CREATE"));
}

#[test]
fn nothing_to_say_is_left_out() {
    let plain = Answer::allow("u").patched(Patch::default()).warn("").audit("profile", "");
    assert_eq!(
        answer(&plain),
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u", "allowed": true}})
    );
}

#[test]
fn a_refusal_carries_its_reason_and_no_patch() {
    let patch: Patch = serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}])).unwrap();
    let refused = answer(&Answer::allow("u").patched(patch.clone()).deny("railbind: no RDMA"))["response"].clone();
    assert_eq!(
        refused,
        json!({"uid": "u", "allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "railbind: no RDMA"}})
    );
}

#[test]
fn patch_warnings_and_audit() {
    let patch: Patch =
        serde_json::from_value(json!([{"op": "add", "path": "/metadata/annotations", "value": {}}])).unwrap();
    let full = answer(&Answer::allow("u").patched(patch).warn("careful").audit("profile", "tcp"));
    let response = &full["response"];
    assert_eq!(response["patchType"], "JSONPatch");
    // base64 of [{"op":"add","path":"/metadata/annotations","value":{}}]
    assert_eq!(response["patch"], "W3sib3AiOiJhZGQiLCJwYXRoIjoiL21ldGFkYXRhL2Fubm90YXRpb25zIiwidmFsdWUiOnt9fV0=");
    assert_eq!(response["warnings"], json!(["careful"]));
    assert_eq!(response["auditAnnotations"], json!({"profile": "tcp"}));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn warnings_keep_their_bounds(texts in proptest::collection::vec(any::<String>(), 0..6), long in "[aä€😀]{0,300}") {
        let answer = texts.iter().chain([&long]).fold(Answer::allow("u"), |answer, text| answer.warn(text));
        assert!(answer.warnings.len() <= MAX_WARNINGS);
        assert!(answer.warnings.iter().all(|text| !text.is_empty() && text.len() <= MAX_WARNING));
        let short = cut(&long, MAX_WARNING);
        let kept = short.trim_end_matches('…');
        assert!(long.starts_with(kept) && (short == long || kept.len() > MAX_WARNING - 7));
    }
}
