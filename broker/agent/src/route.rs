//! How an agent reaches the server, as its surroundings say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::auto::Auto;
use crate::dial::Dial;
use crate::line::Line;
use crate::nats::Nats;
use crate::transport::Transport;
use crate::{Error, Options};

/// A server's address and what it wants to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// The address.
    pub url: String,
    /// The credential.
    pub token: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::nats::without_secrets(&self.url))
    }
}

/// How an agent reaches the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Over NATS.
    Nats(Server),
    /// Over the gateway's WebSocket, by the gateway's base address.
    Gateway(Server),
    /// Over NATS, and over the gateway while NATS is out of reach.
    Auto {
        /// NATS.
        nats: Server,
        /// The gateway.
        gateway: Server,
    },
    /// Over a Unix socket that a node keeps for this one agent.
    Socket(PathBuf),
}

impl Route {
    /// What `TAFFRAIL_AGENT_SOCKET`, `TAFFRAIL_NATS_URL` (with `TAFFRAIL_NATS_TOKEN_FILE` or
    /// `TAFFRAIL_NATS_TOKEN`) and `TAFFRAIL_URL` (with `TAFFRAIL_TOKEN`) say; the socket wins,
    /// and both addresses are [`Route::Auto`].
    ///
    /// # Errors
    /// When the file of the token cannot be read.
    pub fn from_env() -> Result<Option<Self>, Error> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(set: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let set = |name: &str| set(name).filter(|text| !text.is_empty());
        if let Some(path) = set("TAFFRAIL_AGENT_SOCKET") {
            return Ok(Some(Self::Socket(path.into())));
        }
        let token = match set("TAFFRAIL_NATS_TOKEN_FILE") {
            Some(path) => Some(token_file(Path::new(&path))?),
            None => set("TAFFRAIL_NATS_TOKEN"),
        };
        let nats = set("TAFFRAIL_NATS_URL").map(|url| Server { url, token });
        let gateway = set("TAFFRAIL_URL").map(|url| Server { url, token: set("TAFFRAIL_TOKEN") });
        Ok(match (nats, gateway) {
            (Some(nats), Some(gateway)) => Some(Self::Auto { nats, gateway }),
            (Some(nats), None) => Some(Self::Nats(nats)),
            (None, Some(gateway)) => Some(Self::Gateway(gateway)),
            (None, None) => None,
        })
    }

    /// Makes the connection.
    pub(crate) async fn open(self, options: &Options) -> Result<Arc<dyn Transport>, Error> {
        let gateway = |server: Server| Dial::Gateway { url: server.url, token: server.token };
        Ok(match self {
            Self::Nats(Server { url, token }) => {
                Arc::new(Nats::connect(&url, token.as_deref(), options).await?)
            }
            Self::Gateway(server) => line(gateway(server), options).await?,
            Self::Socket(path) => line(Dial::Socket(path), options).await?,
            Self::Auto { nats: Server { url, token }, gateway: server } => {
                let nats = Nats::in_time(&url, token.as_deref(), options).await?;
                let line = Line::new(gateway(server), true);
                Arc::new(Auto::begin(nats, line, options.connect).await?)
            }
        })
    }
}

async fn line(dial: Dial, options: &Options) -> Result<Arc<dyn Transport>, Error> {
    let line = Line::new(dial, false);
    line.reached(options.connect).await?;
    Ok(Arc::new(line))
}

/// The token in a file, without white space around it.
///
/// # Errors
/// When it cannot be read.
pub fn token_file(path: &Path) -> Result<String, Error> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| Error::File { path: path.display().to_string(), source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surroundings_choose_the_route() {
        let of = |pairs: &[(&str, &str)]| {
            Route::of(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            })
        };
        let server = |url: &str, token: Option<&str>| Server {
            url: url.into(),
            token: token.map(Into::into),
        };
        let (nats, http) = (("TAFFRAIL_NATS_URL", "nats://n"), ("TAFFRAIL_URL", "http://g"));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[nats]).unwrap(), Some(Route::Nats(server("nats://n", None))));
        assert_eq!(of(&[http]).unwrap(), Some(Route::Gateway(server("http://g", None))));
        let socket = ("TAFFRAIL_AGENT_SOCKET", "/run/a");
        assert_eq!(of(&[nats, socket]).unwrap(), Some(Route::Socket("/run/a".into())));
        let path = std::env::temp_dir().join(format!("taffrail-token-{}", std::process::id()));
        std::fs::write(&path, "secret\n").unwrap();
        let file = ("TAFFRAIL_NATS_TOKEN_FILE", path.to_str().unwrap());
        let both = of(&[nats, http, file]).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (nats, gateway) = (server("nats://n", Some("secret")), server("http://g", None));
        assert_eq!(both, Some(Route::Auto { nats, gateway }));
        assert!(!format!("{both:?}").contains("secret"));
        assert!(of(&[("TAFFRAIL_NATS_TOKEN_FILE", "/nowhere")]).is_err());
    }
}
