//! Which time it is for certificates: the API server's, because it judges them. Ours may be wrong by years after a jump, and a
//! certificate that begins when our clock says would be refused for as long.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, StatusCode, header::DATE};
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;
use kube::{
    Api, Resource,
    api::GetParams,
    client::Body,
    core::{Request, Status},
};
use serde::de::DeserializeOwned;

/// A difference up to this is none: an answer has the time in whole seconds and takes a while.
const TOLERANCE: Duration = Duration::from_mins(1);

/// Our clock, and by how much it is off.
#[derive(Debug)]
pub(super) struct Clock {
    /// Ours.
    pub(super) ours: fn() -> SystemTime,
    off: Off,
}

/// What has to be done to our time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Off {
    Add(Duration),
    Subtract(Duration),
}

impl Clock {
    /// Ours, until the API server has said its time.
    pub(super) fn new(ours: fn() -> SystemTime) -> Self {
        Self { ours, off: Off::Add(Duration::ZERO) }
    }

    /// Now.
    pub(super) fn now(&self) -> SystemTime {
        self.off.apply((self.ours)())
    }

    /// The API server has just said that it is `theirs`; `None` where its answer did not say. Whether that is another time than
    /// [`Self::now`] was.
    pub(super) fn heard(&mut self, theirs: Option<SystemTime>) -> bool {
        let Some(theirs) = theirs else { return false };
        let off = Off::between((self.ours)(), theirs);
        let news = self.off != off;
        if news {
            match off {
                Off::Add(Duration::ZERO) => tracing::info!("our clock agrees with the API server's again"),
                Off::Add(by) => {
                    tracing::warn!(?by, "our clock is behind the API server's; certificates go by that one");
                }
                Off::Subtract(by) => {
                    tracing::warn!(?by, "our clock is ahead of the API server's; certificates go by that one");
                }
            }
        }
        self.off = off;
        news
    }
}

/// An object as `get_opt` gives it, and the API server's time as it answered, which that does not give.
pub(super) async fn get<K: Resource + Clone + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
) -> kube::Result<(Option<K>, Option<SystemTime>)> {
    let request = Request::new(api.resource_url()).get(name, &GetParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?.map(Body::from);
    let answer = api.clone().into_client().send(request).await?;
    let (status, time) = (answer.status(), date(answer.headers()));
    let body = answer.into_body().collect_bytes().await?;
    if status.is_success() {
        return Ok((Some(serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?), time));
    }
    if status == StatusCode::NOT_FOUND {
        return Ok((None, time));
    }
    // What stands between us and the API server answers in its own words.
    let plain = || Status::failure(&String::from_utf8_lossy(&body), "").with_code(status.as_u16());
    Err(kube::Error::Api(serde_json::from_slice(&body).unwrap_or_else(|_| plain()).boxed()))
}

/// The time of an answer, in whole seconds (RFC 9110); `None` where it has none that makes sense.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(DateTimeParser::new().parse_timestamp(text).ok()?.into())
}

impl Off {
    fn between(ours: SystemTime, theirs: SystemTime) -> Self {
        let whole = |by: Duration| Duration::from_secs(by.as_secs());
        match theirs.duration_since(ours) {
            Ok(behind) if behind > TOLERANCE => Self::Add(whole(behind)),
            Err(ahead) if ahead.duration() > TOLERANCE => Self::Subtract(whole(ahead.duration())),
            Ok(_) | Err(_) => Self::Add(Duration::ZERO),
        }
    }

    fn apply(self, ours: SystemTime) -> SystemTime {
        match self {
            Self::Add(by) => ours + by,
            // A clock that is ahead by more than there is time: not one that we can mend.
            Self::Subtract(by) => ours.checked_sub(by).unwrap_or(ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration, Off, SystemTime};

    const DAY: Duration = Duration::from_hours(24);

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    #[test]
    fn theirs_counts_where_ours_is_off_and_ours_where_it_is_not() {
        for (theirs, now) in [
            (None, noon()),
            (Some(noon() + Duration::from_secs(59)), noon()),
            (Some(noon() - Duration::from_secs(59)), noon()),
            (Some(noon() + 400 * DAY), noon() + 400 * DAY),
            (Some(noon() - 5 * DAY), noon() - 5 * DAY),
        ] {
            let mut clock = Clock::new(noon);
            clock.heard(theirs);
            assert_eq!(clock.now(), now, "{theirs:?}");
        }
    }

    #[test]
    fn it_is_set_right_again_and_silence_changes_nothing() {
        let mut clock = Clock::new(noon);
        clock.heard(Some(noon() + DAY));
        clock.heard(None);
        assert_eq!(clock.now(), noon() + DAY);
        clock.heard(Some(noon()));
        assert_eq!(clock.now(), noon());
    }

    #[test]
    fn whole_seconds_so_that_the_same_difference_is_no_news() {
        let off = |millis| Off::between(noon(), noon() + DAY + Duration::from_millis(millis));
        assert_eq!(off(1), off(999));
        assert_eq!(Off::between(noon() + DAY, noon()), Off::Subtract(DAY));
    }
}
