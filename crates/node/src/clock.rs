//! The time of day, as Kubernetes' types hold it.
//!
//! Their library is built without a clock, so the clock is read here.

use k8s_openapi::jiff::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now. A clock that is set before 1970 counts as 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::MAX)
}

/// Now, as it stands in an object.
pub fn text() -> String {
    now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
