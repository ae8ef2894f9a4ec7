//! One HTTP exchange with a provider: bounded in time and size, never over a proxy of the environment. Certificates must lead to
//! an authority of the machine, or of the file named by `SSL_CERT_FILE`, which then takes the place of all others.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};

/// One call, from connecting to the last byte (contract section 5.2).
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A kept connection is closed after this time without a call.
const IDLE: Duration = Duration::from_mins(1);

/// Kept connections to one provider. Whoever makes no more calls than that at one time loses none when they end together.
pub(super) const IDLE_CONNECTIONS_MAX: usize = 256;

/// Redirects of one call.
const REDIRECTS_MAX: usize = 5;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchError {
    /// No connection, or it broke, or the answer was no HTTP.
    Connection,
    /// The certificate of the provider leads to no authority that is trusted, or is for another name or time.
    Certificate,
    /// No complete answer in time.
    Timeout,
    /// The body is longer than allowed.
    TooLarge,
    /// Redirected to another scheme, host or port, or too often.
    Redirect,
}

impl FetchError {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Connection => "cannot connect",
            Self::Certificate => "the certificate is not trusted",
            Self::Timeout => "no answer in time",
            Self::TooLarge => "the answer is too large",
            Self::Redirect => "redirected to another origin, or too often",
        }
    }
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        tracing::debug!(%error, "a call failed");
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_redirect() {
            Self::Redirect
        } else if is_about_a_certificate(&error) {
            Self::Certificate
        } else {
            Self::Connection
        }
    }
}

/// Whether a certificate is the cause of the error, or of its cause. What an `io::Error` wraps is not its `source`.
fn is_about_a_certificate(error: &(dyn Error + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return true;
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let wrapped = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static));
    wrapped.or_else(|| error.source()).is_some_and(is_about_a_certificate)
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Empty unless the status is 200: nobody reads another one.
    pub(super) body: Vec<u8>,
}

/// Which redirects a client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    /// None: credentials stay where they were sent.
    None,
    /// Within the same scheme, host and port: who serves the keys is who was configured.
    SameOrigin,
}

/// A client with its own pool of connections. One call may take `limit`.
pub(super) fn client(redirects: Redirects, limit: Duration) -> Client {
    build(Client::builder(), redirects, limit).unwrap_or_else(|error| {
        tracing::warn!(%error, "no root certificates were found; https calls will fail");
        without_roots(redirects, limit)
    })
}

/// A client that trusts nobody: http calls still work, https calls fail.
fn without_roots(redirects: Redirects, limit: Duration) -> Client {
    build(Client::builder().tls_certs_only([]), redirects, limit).unwrap_or_default()
}

fn build(builder: ClientBuilder, redirects: Redirects, limit: Duration) -> reqwest::Result<Client> {
    builder
        .no_proxy()
        .redirect(match redirects {
            Redirects::None => Policy::none(),
            Redirects::SameOrigin => Policy::custom(same_origin),
        })
        .referer(false)
        .timeout(limit)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http1_only()
        .user_agent(concat!("vibewarden/", env!("CARGO_PKG_VERSION")))
        .build()
}

fn same_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_same =
        attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if is_same && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.error("redirected to another origin, or too often")
    }
}

/// Sends the request and reads a body of at most `body_bytes_max`.
pub(super) async fn fetch(
    request: RequestBuilder,
    body_bytes_max: usize,
) -> Result<Answer, FetchError> {
    let mut response = request.send().await?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    if status == 200 {
        while let Some(piece) = response.chunk().await? {
            if body.len() + piece.len() > body_bytes_max {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
    }
    Ok(Answer { status, body })
}

/// The URL as it may be logged: without userinfo.
pub(super) fn shown(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else {
        return String::new();
    };
    let hidden = parsed.set_username("").and_then(|()| parsed.set_password(None));
    if hidden.is_ok() { parsed.into() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::super::double::{Double, PATIENCE, Reply, SHORT};
    use super::*;

    #[tokio::test]
    async fn https_needs_tls_and_http_needs_no_roots() {
        let double = Double::start(Reply::ok("{}")).await;
        for client in [client(Redirects::None, PATIENCE), without_roots(Redirects::None, PATIENCE)]
        {
            let answer = fetch(client.get(&double.url), 2).await.map(|answer| answer.body);
            assert_eq!(answer, Ok(b"{}".to_vec()));
        }
        for client in [client(Redirects::None, SHORT), without_roots(Redirects::None, SHORT)] {
            let secure = double.url.replace("http://", "https://");
            let refused = fetch(client.get(secure), 2).await.map(|answer| answer.status);
            // The double waits for the end of a head, which a TLS hello does not have.
            assert!(matches!(refused, Err(FetchError::Timeout | FetchError::Connection)));
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let double = Double::start(Reply::ok("12345")).await;
        let client = client(Redirects::None, LIMIT);
        let read = async |bound| fetch(client.get(&double.url), bound).await;
        assert_eq!(read(5).await.map(|answer| answer.body.len()), Ok(5));
        assert_eq!(read(4).await.map(|answer| answer.body.len()), Err(FetchError::TooLarge));
        double.set(Reply::status(404));
        let answer = read(0).await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (404, 0));
    }
}
