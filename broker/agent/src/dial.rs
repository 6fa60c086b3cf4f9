//! How a line of frames to the server is opened: a WebSocket or a Unix socket.

use std::path::PathBuf;
use std::pin::Pin;

use domain::frame::MAX_FRAME_BYTES;
use futures::stream::BoxStream;
use futures::{Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::codec::{Framed, LinesCodec};

/// Largest answer that is taken: a claim's may carry 256 tasks of 256 KiB each.
const MAX_ANSWER_BYTES: usize = 65 * MAX_FRAME_BYTES;

/// Where a line leads to.
#[derive(Debug, Clone)]
pub(crate) enum Dial {
    /// The gateway, by its base address.
    Gateway { url: String, token: Option<String> },
    /// A node's socket.
    Socket(PathBuf),
}

/// What goes out.
#[derive(Debug)]
pub(crate) enum Out {
    Frame(String),
    /// Asks for a sign of life.
    Ping,
}

/// What comes in.
#[derive(Debug)]
pub(crate) enum In {
    Frame(String),
    /// The other side is there.
    Alive,
}

/// Why there is no line.
#[derive(Debug)]
pub(crate) struct Refused {
    pub reason: String,
    /// Trying again will not help: we are not let in.
    pub for_good: bool,
}

pub(crate) type Sending = Pin<Box<dyn Sink<Out, Error = String> + Send>>;
pub(crate) type Receiving = BoxStream<'static, Result<In, String>>;

impl Dial {
    /// For messages; without secrets.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Gateway { url, .. } => crate::nats::without_secrets(url),
            Self::Socket(path) => path.display().to_string(),
        }
    }

    /// Opens the line.
    pub(crate) async fn open(&self) -> Result<(Sending, Receiving), Refused> {
        match self {
            Self::Gateway { url, token } => gateway(url, token.as_deref()).await,
            Self::Socket(path) => {
                let passing =
                    |error: std::io::Error| Refused { reason: error.to_string(), for_good: false };
                Ok(lines(UnixStream::connect(path).await.map_err(passing)?, MAX_ANSWER_BYTES))
            }
        }
    }
}

async fn gateway(url: &str, token: Option<&str>) -> Result<(Sending, Receiving), Refused> {
    let no = |reason: String, for_good| Refused { reason, for_good };
    let address = websocket_address(url)
        .ok_or_else(|| no(format!("`{url}` is no http:// or https:// address"), true))?;
    let address = address.parse().map_err(|_| no(format!("`{url}` is no address"), true))?;
    let mut request = ClientRequestBuilder::new(address);
    if let Some(token) = token {
        request = request.with_header("Authorization", format!("Bearer {token}"));
    }
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_ANSWER_BYTES))
        .max_frame_size(Some(MAX_ANSWER_BYTES));
    let opened = tokio_tungstenite::connect_async_with_config(request, Some(limits), true).await;
    let (socket, _) = opened.map_err(|error| {
        let mut for_good = false;
        if let WsError::Http(answer) = &error {
            for_good = matches!(answer.status().as_u16(), 400 | 401 | 403 | 404);
        }
        no(error.to_string(), for_good)
    })?;
    let (sink, stream) = socket.split();
    let sink = sink.sink_map_err(|error| error.to_string()).with(|out: Out| {
        let message = match out {
            Out::Frame(text) => Message::text(text),
            Out::Ping => Message::Ping(Default::default()),
        };
        std::future::ready(Ok::<_, String>(message))
    });
    let stream = stream.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Text(text)) => Some(Ok(In::Frame(text.to_string()))),
            Ok(Message::Close(frame)) => {
                let why = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                Some(Err(format!("the gateway closed the connection: {why}")))
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => Some(Ok(In::Alive)),
            Ok(Message::Binary(_) | Message::Frame(_)) => None,
            Err(error) => Some(Err(error.to_string())),
        })
    });
    Ok((Box::pin(sink), stream.boxed()))
}

/// `http://host:port/` becomes `ws://host:port/v1/ws`.
fn websocket_address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        _ => return None,
    };
    Some(format!("{scheme}://{}/v1/ws", rest.trim_end_matches('/')))
}

/// Frames as lines; a blank line is a sign of life, and is answered by one.
pub(crate) fn lines<L>(line: L, max_bytes: usize) -> (Sending, Receiving)
where
    L: AsyncRead + AsyncWrite + Send + 'static,
{
    let codec = LinesCodec::new_with_max_length(max_bytes);
    let (sink, stream) = Framed::new(line, codec).split();
    let sink = sink.sink_map_err(|error| error.to_string()).with(|out: Out| {
        let line = match out {
            Out::Frame(text) => text,
            Out::Ping => String::new(),
        };
        std::future::ready(Ok::<_, String>(line))
    });
    let stream = stream.map(|line| match line {
        Ok(line) if line.is_empty() => Ok(In::Alive),
        Ok(line) => Ok(In::Frame(line)),
        Err(error) => Err(error.to_string()),
    });
    (Box::pin(sink), stream.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_websocket_stands_below_the_base_address() {
        let address = |url| websocket_address(url);
        assert_eq!(address("http://h:7117").as_deref(), Some("ws://h:7117/v1/ws"));
        assert_eq!(address("https://h/").as_deref(), Some("wss://h/v1/ws"));
        assert_eq!(address("nats://h"), None);
        assert_eq!(address("h:7117"), None);
    }
}
