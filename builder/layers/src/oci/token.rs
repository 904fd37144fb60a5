//! From a credential to what a registry accepts: the challenge of `GET /v2/`, and a token server's answer.
//!
//! Written here rather than left to the client library because that one knows no refresh tokens, and turns every refusal of a
//! token server, a passing 503 included, into the same error.

use oci_client::secrets::RegistryAuth;
use reqwest::header::WWW_AUTHENTICATE;
use serde::Deserialize;

use super::auth::{Credential, Found};
use super::error::OciError;
use super::fault::{Fault, network, one_line, refused, status};
use super::reference::is_loopback;

/// Where and for what a token is wanted.
pub(crate) struct Wanted<'a> {
    /// `https://HOST[:PORT]`.
    pub(crate) base: &'a str,
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    pub(crate) found: &'a Found,
}

struct Bearer {
    realm: String,
    service: Option<String>,
}

enum Challenge {
    Bearer(Bearer),
    Basic,
}

/// Asks the registry how it wants to be asked, and gets the token for that.
pub(crate) async fn authorize(http: &reqwest::Client, wanted: &Wanted<'_>) -> Result<RegistryAuth, Fault> {
    if let Credential::Bearer(token) = &wanted.found.credential {
        return Ok(RegistryAuth::Bearer(token.clone()));
    }
    let url = format!("{}/v2/", wanted.base);
    let response = http.get(&url).send().await.map_err(|e| network(&e, wanted.registry, wanted.repository))?;
    let code = response.status();
    if code.is_success() {
        // It lets anybody in, so nobody's password goes out.
        return Ok(RegistryAuth::Anonymous);
    }
    if code.as_u16() != 401 {
        let detail = one_line(&response.text().await.unwrap_or_default());
        return Err(match code.as_u16() {
            404 => Fault::Fatal(OciError::Status {
                registry: wanted.registry.to_owned(),
                what: url,
                status: "404".to_owned(),
                detail: "this is no container registry".to_owned(),
            }),
            code => status(code, &code.to_string(), detail, wanted.registry, &url, &wanted.found.tried),
        });
    }
    let challenges: Vec<_> = response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenges)
        .collect();
    let bearer = challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer(bearer) => Some(bearer),
        Challenge::Basic => None,
    });
    match (bearer, &wanted.found.credential) {
        (Some(bearer), _) => token(http, wanted, bearer).await.map(RegistryAuth::Bearer),
        (None, Credential::Basic(user, password)) if !challenges.is_empty() => {
            Ok(RegistryAuth::Basic(user.clone(), password.clone()))
        }
        (None, _) => Err(Fault::Unauthorized(String::new())),
    }
}

fn challenges(header: &str) -> Vec<Challenge> {
    let Ok(parsed) = http_auth::parse_challenges(header) else { return Vec::new() };
    let known = parsed.iter().filter_map(|challenge| {
        let param = |name: &str| {
            challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
        };
        match challenge.scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(Challenge::Bearer(Bearer { realm: param("realm")?, service: param("service") })),
            "basic" => Some(Challenge::Basic),
            _ => None,
        }
    });
    known.collect()
}

/// The token request of the distribution project's "Token Authentication" pages: GET with a password, POST with a refresh
/// token.
async fn token(http: &reqwest::Client, wanted: &Wanted<'_>, bearer: &Bearer) -> Result<String, Fault> {
    let what = format!("a token for {}", wanted.repository);
    let fatal = |detail: String| refused(wanted.registry, &what, "token server", detail, &wanted.found.tried);
    let realm = reqwest::Url::parse(&bearer.realm)
        .map_err(|e| Fault::Fatal(fatal(format!("its realm '{}' is no URL: {e}", bearer.realm))))?;
    // A registry that is asked over TLS must not talk us into sending a password in the clear.
    let safe =
        realm.scheme() == "https" || wanted.base.starts_with("http://") || realm.host_str().is_some_and(is_loopback);
    if !safe {
        return Err(Fault::Fatal(fatal(format!("its token server {realm} has no TLS"))));
    }
    let scope = format!("repository:{}:pull", wanted.repository);
    let service = bearer.service.as_deref();
    let request = if let Credential::Identity(refresh) = &wanted.found.credential {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", "imgbuild"),
            ("scope", scope.as_str()),
            ("refresh_token", refresh.as_str()),
        ];
        form.extend(service.map(|service| ("service", service)));
        http.post(realm).form(&form)
    } else {
        let mut query = vec![("scope", scope.as_str())];
        query.extend(service.map(|service| ("service", service)));
        let request = http.get(realm).query(&query);
        match &wanted.found.credential {
            Credential::Basic(user, password) => request.basic_auth(user, Some(password)),
            _ => request,
        }
    };
    let response = request.send().await.map_err(|e| network(&e, wanted.registry, &what))?;
    let code = response.status().as_u16();
    let body = response.text().await.map_err(|e| network(&e, wanted.registry, &what))?;
    match code {
        200 => {}
        400 | 401 | 403 => {
            return Err(Fault::Fatal(refused(
                wanted.registry,
                &what,
                &code.to_string(),
                one_line(&body),
                &wanted.found.tried,
            )));
        }
        _ => return Err(status(code, &code.to_string(), one_line(&body), wanted.registry, &what, &wanted.found.tried)),
    }
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    // Not serde's own message, which may quote the token.
    let answer: Answer = serde_json::from_str(&body)
        .map_err(|_| Fault::Fatal(fatal("its token server's answer is not JSON".to_owned())))?;
    answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .ok_or_else(|| Fault::Fatal(fatal("its token server's answer holds no token".to_owned())))
}
