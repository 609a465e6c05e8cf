//! A door between the managers and the Kubernetes API that can be shut.
//!
//! Only the managers go through it: what the API is to kubelet and controllers is not the question. Refusing and hanging
//! are two kinds of absence, and clients trip over them in different places.

use anyhow::{Context, Result};
use kube::config::Kubeconfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the door stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// All passes.
    Open,
    /// Connections are cut, new ones too.
    Refuses,
    /// Connections stay, and nothing passes.
    Hangs,
}

/// The door of one API.
pub struct Proxy {
    door: watch::Sender<Door>,
}

impl Proxy {
    /// Makes it in front of the API that a kubeconfig names, which names the door from then on.
    pub async fn before(kubeconfig: &mut Kubeconfig) -> Result<Self> {
        let cluster = kubeconfig.clusters.first_mut().and_then(|named| named.cluster.as_mut());
        let cluster = cluster.context("the kubeconfig names no cluster")?;
        let server = cluster.server.clone().context("the kubeconfig names no server")?;
        let target = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let host = target.rsplit_once(':').map_or(target.as_str(), |(host, _)| host).to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let door = watch::channel(Door::Open).0;
        let of_connections = door.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), of_connections.subscribe()));
            }
        });
        cluster.server = Some(format!("https://{address}"));
        cluster.tls_server_name.get_or_insert(host);
        Ok(Self { door })
    }

    /// Sets the door.
    pub fn set(&self, door: Door) {
        self.door.send_replace(door);
    }
}

/// One connection, until either side or the door ends it.
async fn pass(client: TcpStream, target: String, mut door: watch::Receiver<Door>) {
    let refused = door.wait_for(|door| *door != Door::Hangs).await.is_ok_and(|door| *door == Door::Refuses);
    if refused {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let refuses = async {
        let _ = door.clone().wait_for(|door| *door == Door::Refuses).await;
    };
    // A failure of either side is the end of both, as on a wire.
    tokio::select! {
        () = copy(client_in, server_out, door.clone()) => {}
        () = copy(server_in, client_out, door.clone()) => {}
        () = refuses => {}
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut door: watch::Receiver<Door>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        // The lock of the look is not held while we write.
        let shut = door.wait_for(|door| *door != Door::Hangs).await.is_err();
        if length == 0 || shut || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Proxy};
    use kube::config::{Cluster, Kubeconfig, NamedCluster};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn echo() -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn what_hangs_comes_later_and_what_is_refused_ends() {
        let cluster = Cluster { server: Some(format!("https://{}", echo().await)), ..Cluster::default() };
        let named = NamedCluster { name: "x".to_owned(), cluster: Some(cluster), ..NamedCluster::default() };
        let mut kubeconfig = Kubeconfig { clusters: vec![named], ..Kubeconfig::default() };
        let proxy = Proxy::before(&mut kubeconfig).await.unwrap();
        let cluster = kubeconfig.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.tls_server_name.as_deref(), Some("127.0.0.1"));
        let address = cluster.server.as_ref().unwrap().trim_start_matches("https://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut letter = [0; 1];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut letter).await.unwrap();
        proxy.set(Door::Hangs);
        stream.write_all(b"b").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut letter)).await;
        assert!(early.is_err(), "something passed a shut door");
        proxy.set(Door::Open);
        stream.read_exact(&mut letter).await.unwrap();
        assert_eq!(&letter, b"b");
        proxy.set(Door::Refuses);
        assert_eq!(stream.read(&mut letter).await.unwrap_or(0), 0);
    }
}
