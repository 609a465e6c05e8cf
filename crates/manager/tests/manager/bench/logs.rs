//! A kubelet that has nothing but logs.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kube_server::{ApiError, ExecOptions, ExecSession, LogOptions, NoBackend, PodBackend, PodRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What containers have printed, by name.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Logs {
    pub fn set(&self, container: &str, text: impl Into<Bytes>) {
        self.0.lock().unwrap().insert(container.to_owned(), text.into());
    }
}

impl PodBackend for Logs {
    /// As a server that minds no limit: what is too much is for the caller to leave.
    fn logs(
        &self,
        pod: PodRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, std::io::Result<Bytes>>, ApiError>> {
        assert!(options.timestamps && options.tail_lines.is_some() && options.limit_bytes.is_some(), "{options:?}");
        let text = self.0.lock().unwrap().get(&options.container).cloned();
        match text {
            Some(text) => Box::pin(async move { Ok(futures::stream::iter([Ok(text)]).boxed()) }),
            None => NoBackend.logs(pod, options),
        }
    }

    fn exec(&self, pod: PodRef, options: ExecOptions) -> BoxFuture<'_, Result<ExecSession, ApiError>> {
        NoBackend.exec(pod, options)
    }
}
