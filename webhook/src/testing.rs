//! An API server for tests: objects by path, in memory; just as much of its manners as our code relies on.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use axum::http::{Method, Request, Response, StatusCode, header::DATE};
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use kube::{
    Api, Client, Resource,
    client::Body,
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde_json::{Value, json};
use tower::service_fn;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    requests: Vec<(Method, String)>,
    misses: usize,
    fail_with: Option<u16>,
    version: u64,
    time: Option<fn() -> SystemTime>,
}

impl Inner {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.into(), object.clone());
        object
    }
}

/// The server. Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<Inner>>);

impl ApiServer {
    pub(crate) fn start() -> Self {
        Self::default()
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let time = server.0.lock().unwrap().time.map(|clock| clock());
                let mut answer = server.answer(request).await;
                if let Some(time) = time {
                    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::try_from(time).unwrap());
                    answer.headers_mut().insert(DATE, text.unwrap().parse().unwrap());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        Client::new(service, "default")
    }

    pub(crate) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client(), namespace)
    }

    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()>,
    {
        Api::all(self.client())
    }

    /// Answers every request with this code.
    pub(crate) fn fail_with(&self, code: Option<u16>) {
        self.0.lock().unwrap().fail_with = code;
    }

    /// Answers have the time of this clock from now on.
    pub(crate) fn says_time(&self, clock: fn() -> SystemTime) {
        self.0.lock().unwrap().time = Some(clock);
    }

    /// The next reads find nothing, as if they had been a moment earlier.
    pub(crate) fn miss_next_reads(&self, count: usize) {
        self.0.lock().unwrap().misses = count;
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().write(path, object);
    }

    pub(crate) fn delete(&self, path: &str) {
        assert!(self.0.lock().unwrap().objects.remove(path).is_some(), "no {path}");
    }

    /// How many requests of this method there were.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.0.lock().unwrap().requests.iter().filter(|(found, _)| found == method).count()
    }

    /// Path and query of the last request of this method.
    pub(crate) fn last(&self, method: &str) -> String {
        let inner = self.0.lock().unwrap();
        inner.requests.iter().rfind(|(found, _)| found == method).map(|(_, uri)| uri.clone()).unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body.collect_bytes().await.unwrap();
        let mut inner = self.0.lock().unwrap();
        inner.requests.push((parts.method.clone(), parts.uri.to_string()));
        if let Some(code) = inner.fail_with {
            return status(code, &format!("the test wants {code}"));
        }
        match parts.method {
            Method::GET if inner.misses > 0 => {
                inner.misses -= 1;
                status(404, "not found")
            }
            Method::GET => match inner.objects.get(&path) {
                Some(object) => reply(200, object),
                None => status(404, "not found"),
            },
            Method::POST => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                if inner.objects.contains_key(&path) {
                    return status(409, "already exists");
                }
                reply(201, &inner.write(&path, object))
            }
            Method::PATCH => {
                assert_eq!(parts.headers["content-type"], "application/apply-patch+yaml");
                let object: Value = serde_json::from_slice(&body).unwrap();
                reply(200, &inner.write(&path, object))
            }
            Method::PUT => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let known = &object["metadata"]["resourceVersion"];
                match inner.objects.get(&path) {
                    None => status(404, "not found"),
                    Some(present) if present["metadata"]["resourceVersion"] != *known => status(409, "another version"),
                    Some(_) => reply(200, &inner.write(&path, object)),
                }
            }
            other => panic!("unexpected {other} {path}"),
        }
    }
}

fn status(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        404 => "NotFound",
        409 => "AlreadyExists",
        _ => "",
    };
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

fn reply(code: u16, object: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(serde_json::to_vec(object).unwrap()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
