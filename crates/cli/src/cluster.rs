//! The cluster: every request has a deadline, every failure a sort, and what could not be looked at is written down.

use std::{
    fmt::Write as _,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    api::{GetParams, ListParams, LogParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::ClusterArgs,
    exit::{Ended, Exit, Result},
    out,
};

/// Objects asked for at once.
const PAGE: u32 = 500;
/// More pages than this no list has.
const MAX_PAGES: usize = 1000;

/// A cluster, and what could not be looked at in it.
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The context's namespace.
    pub namespace: String,
    /// The API server's address.
    pub server: String,
    timeout: Duration,
    missing: Mutex<Vec<Missing>>,
}

/// A part of the cluster that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which code it stands for.
    #[serde(skip)]
    pub exit: Exit,
    /// What, and why.
    pub what: String,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers.
    Unreachable(String),
    /// No answer in time.
    Slow(String),
    /// The credentials are not taken, or do not allow it.
    Refused(String),
    /// No such object or kind.
    NotFound(String),
    /// Something else.
    Other(String),
}

impl Trouble {
    fn sort(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let text = if status.message.is_empty() { &status.reason } else { &status.message };
                // A kubelet's address is another for each log, and says nothing.
                let kubelet = text.split_once("\": ").filter(|_| text.starts_with("Get \""));
                let text = kubelet.map_or(text.as_str(), |(_, why)| why).to_owned();
                match status.code {
                    401 | 403 => Self::Refused(text),
                    404 => Self::NotFound(text),
                    408 | 429 | 500..=599 => Self::Slow(format!("{}: {text}", status.code)),
                    code => Self::Other(format!("{code}: {text}")),
                }
            }
            kube::Error::SerdeError(error) => Self::Other(format!("an answer that makes no sense: {error}")),
            kube::Error::Auth(error) => Self::Refused(format!("no credentials: {}", chain(&error))),
            error => Self::Unreachable(chain(&error)),
        }
    }

    /// The code it stands for, where the rest of the cluster answers.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Unreachable(_) | Self::Slow(_) | Self::NotFound(_) | Self::Other(_) => Exit::Partial,
            Self::Refused(_) => Exit::NoPermission,
        }
    }

    /// In a sentence.
    pub fn text(&self) -> &str {
        let (Self::Unreachable(text)
        | Self::Slow(text)
        | Self::Refused(text)
        | Self::NotFound(text)
        | Self::Other(text)) = self;
        text
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl Cluster {
    /// Connects, and sees that somebody answers.
    ///
    /// # Errors
    /// No kubeconfig, nobody there, or credentials that are not taken.
    pub async fn connect(args: &ClusterArgs) -> Result<Self> {
        let none = |error: String| {
            Ended::new(
                Exit::NoCluster,
                format!("no cluster: {error}; give --kubeconfig or --context, or see `kubectl cluster-info`"),
            )
        };
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = if let Some(path) = &args.kubeconfig {
            let file = Kubeconfig::read_from(path).map_err(|error| none(chain(&error)))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| none(chain(&error)))?
        } else if args.context.is_some() {
            Config::from_kubeconfig(&options).await.map_err(|error| none(chain(&error)))?
        } else {
            Config::infer().await.map_err(|error| none(chain(&error)))?
        };
        let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
        let client = Client::try_from(config).map_err(|error| none(chain(&error)))?;
        let timeout = Duration::from_secs(args.request_timeout);
        let cluster = Self { client, namespace, server, timeout, missing: Mutex::default() };
        match cluster.call(cluster.client.apiserver_version()).await {
            Err(Trouble::Unreachable(why) | Trouble::Slow(why)) => {
                Err(none(format!("{} does not answer: {why}", cluster.server.trim_end_matches('/'))))
            }
            Err(Trouble::Refused(why)) if !why.contains("forbidden") => Err(Ended::new(
                Exit::NoPermission,
                format!("{} does not take these credentials: {why}", cluster.server.trim_end_matches('/')),
            )),
            // A server that keeps its version to itself is there all the same.
            Ok(_) | Err(Trouble::Refused(_) | Trouble::NotFound(_) | Trouble::Other(_)) => Ok(cluster),
        }
    }

    /// Makes a request within the deadline.
    ///
    /// # Errors
    /// Sorted.
    pub async fn call<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(result) => result.map_err(Trouble::sort),
            Err(_) => Err(Trouble::Slow(format!("no answer within {} s (--request-timeout)", self.timeout.as_secs()))),
        }
    }

    /// The answer to a GET of a path, whatever its status: one of the API server, or of who is behind its proxy.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn ask(&self, path: &str) -> Result<http::Response<kube::client::Body>, Trouble> {
        let request = http::Request::get(path).header(http::header::ACCEPT, "*/*").body(kube::client::Body::empty());
        let request = request.map_err(|error| Trouble::Other(format!("{path:?} is no path: {error}")))?;
        self.call(self.client.send(request)).await
    }

    /// The same, read to its end or to `most` bytes; with its status.
    ///
    /// # Errors
    /// Nobody answers, or stops in the middle.
    pub async fn read(&self, path: &str, most: usize) -> Result<(u16, Vec<u8>), Trouble> {
        let answer = self.ask(path).await?;
        let code = answer.status().as_u16();
        let body = http_body_util::Limited::new(answer.into_body(), most).collect();
        match tokio::time::timeout(self.timeout, body).await {
            Ok(Ok(body)) => Ok((code, body.to_bytes().to_vec())),
            Ok(Err(error)) => Err(Trouble::Other(format!("the answer broke off: {error}"))),
            Err(_) => Err(Trouble::Slow("the answer does not end".into())),
        }
    }

    /// One object.
    ///
    /// # Errors
    /// Sorted.
    pub async fn get(&self, path: &str, name: &str) -> Result<Value, Trouble> {
        let request = Request::new(path).get(name, &GetParams::default());
        let request = request.map_err(|error| Trouble::Other(format!("{name:?} is no name: {error}")))?;
        self.call(self.client.request(request)).await
    }

    /// All objects of a list.
    ///
    /// # Errors
    /// Sorted; nothing of what was read is kept then.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Trouble> {
        self.list_those(path, |_| true).await
    }

    /// The objects of a list that are wanted, page by page: a cluster can have more pods than this machine has memory for.
    ///
    /// # Errors
    /// Sorted; nothing of what was read is kept then.
    pub async fn list_those(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Trouble> {
        let mut all = Vec::new();
        let mut from = None;
        for _ in 0..MAX_PAGES {
            let parameters = ListParams { limit: Some(PAGE), continue_token: from.take(), ..ListParams::default() };
            let request = Request::new(path).list(&parameters).map_err(|error| Trouble::Other(error.to_string()))?;
            let mut page: Value = self.call(self.client.request(request)).await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items.into_iter().filter(|item| wanted(item)));
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => from = Some(token.to_owned()),
                None => return Ok(all),
            }
        }
        Err(Trouble::Other(format!("the list {path} does not end")))
    }

    /// A part of a log, piece by piece, at most `limit` bytes whatever the server sends; true where there was more.
    ///
    /// # Errors
    /// Sorted; a log that breaks off is one that had more.
    pub async fn log(
        &self,
        namespace: &str,
        pod: &str,
        parameters: &LogParams,
        limit: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<bool, Trouble> {
        use futures::AsyncReadExt as _;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let request = Request::new(path).logs(pod, parameters).map_err(|error| Trouble::Other(error.to_string()))?;
        let mut stream = std::pin::pin!(self.call(self.client.request_stream(request)).await?);
        let mut read = 0;
        let mut chunk = vec![0; 64 << 10];
        while read < limit {
            // The deadline is for silence: a large log takes its time.
            match tokio::time::timeout(self.timeout, stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return Ok(false),
                Ok(Ok(count)) => {
                    let count = count.min(limit - read);
                    take(&chunk[..count]);
                    read += count;
                }
                Ok(Err(error)) if read == 0 => return Err(Trouble::Other(error.to_string())),
                Err(_) if read == 0 => return Err(Trouble::Slow("the log does not come".into())),
                Ok(Err(_)) | Err(_) => return Ok(true),
            }
        }
        Ok(true)
    }

    /// Writes down what could not be looked at.
    pub fn miss(&self, exit: Exit, what: impl Into<String>) {
        let missing = Missing { exit, what: what.into() };
        let mut all = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&missing) {
            all.push(missing);
        }
    }

    /// What could not be looked at.
    pub fn missing(&self) -> Vec<Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells people what could not be looked at, and gives the code of it all.
    pub fn end(&self, findings: bool) -> Exit {
        let missing = self.missing();
        for missing in missing.iter().take(20) {
            out::say(&format!("{} {}", out::paint(out::WARN, "not looked at:"), out::clean(&missing.what)));
        }
        if missing.len() > 20 {
            out::say(&format!("… and {} more", missing.len() - 20));
        }
        if findings {
            return Exit::Findings;
        }
        missing.iter().map(|missing| missing.exit).min().unwrap_or(Exit::Healthy)
    }
}
