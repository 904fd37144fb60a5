//! Credentials where docker, podman and skopeo keep them.
//!
//! Formats: docker's `config.json` (`auths`, `credHelpers`, `credsStore`) and `containers-auth.json(5)`, which also has keys
//! for a namespace (`host/team`) beside those for a whole registry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::error::OciError;

/// What docker calls itself in its own files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The files in which credentials are looked for, in this order.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    files: Vec<PathBuf>,
    helper_path: Option<OsString>,
}

/// What was found for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    /// For errors: where it is from, or where nothing was.
    pub(crate) tried: String,
}

/// A secret. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Nobody in particular.
    Anonymous,
    /// User and password.
    Basic(String, String),
    /// An OAuth2 refresh token, to be changed for an access token.
    Identity(String),
    /// A bearer token for the registry itself.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic(..) => "Basic(…)",
            Self::Identity(_) => "Identity(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthFiles {
    /// These files and no others; those that do not exist are passed over.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, helper_path: None }
    }

    /// `$REGISTRY_AUTH_FILE` alone if it is set; else podman's `$XDG_RUNTIME_DIR/containers/auth.json` and
    /// `~/.config/containers/auth.json`, then docker's `$DOCKER_CONFIG/config.json` (`~/.docker/config.json`).
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_env_in(|name| std::env::var_os(name))
    }

    fn from_env_in(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = set("REGISTRY_AUTH_FILE") {
            return Self::new(vec![file]);
        }
        let home = set("HOME");
        let config = set("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let docker = set("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let files = [
            set("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config.map(|dir| dir.join("containers/auth.json")),
            docker.map(|dir| dir.join("config.json")),
        ];
        Self::new(files.into_iter().flatten().collect())
    }

    /// Looks for credential helpers in these folders (`:`-separated) instead of `$PATH`.
    #[must_use]
    pub fn with_helper_path(mut self, path: impl Into<OsString>) -> Self {
        self.helper_path = Some(path.into());
        self
    }

    /// The credentials for a repository of a registry.
    ///
    /// # Errors
    /// When a file is there and cannot be used, or a helper fails.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Result<Found, OciError> {
        for path in &self.files {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(e) => return Err(OciError::AuthFile { path: path.clone(), reason: e.to_string() }),
            };
            let file: AuthFile = serde_json::from_slice(&text)
                .map_err(|e| OciError::AuthFile { path: path.clone(), reason: e.to_string() })?;
            if let Some(credential) = self.find_in(&file, path, registry, repository)? {
                let user = match &credential {
                    Credential::Basic(user, _) => format!("the password of '{user}'"),
                    _ => "the token".to_owned(),
                };
                return Ok(Found { credential, tried: format!("it was asked with {user} from {}", path.display()) });
            }
        }
        let files: Vec<_> = self.files.iter().map(|path| path.display().to_string()).collect();
        let tried = match files.join(", ") {
            none if none.is_empty() => "it was asked without credentials".to_owned(),
            files => format!(
                "no credentials for it in {files}: log in with 'podman login {registry}' or 'docker login {registry}'"
            ),
        };
        Ok(Found { credential: Credential::Anonymous, tried })
    }

    fn find_in(
        &self,
        file: &AuthFile,
        path: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, OciError> {
        // The most specific key wins: host/team/project, host/team, then the host.
        let mut scope = format!("{registry}/{repository}");
        while scope.len() > registry.len() {
            if let Some(entry) = file.auths.get(&scope)
                && let Some(credential) = entry.credential(path)?
            {
                return Ok(Some(credential));
            }
            scope.truncate(scope.rfind('/').unwrap_or(0));
        }
        if let Some(helper) = by_host(&file.cred_helpers, registry).filter(|name| !name.is_empty())
            && let Some(credential) = self.ask(helper, registry, path)?
        {
            return Ok(Some(credential));
        }
        if let Some(entry) = by_host(&file.auths, registry)
            && let Some(credential) = entry.credential(path)?
        {
            return Ok(Some(credential));
        }
        match file.creds_store.as_deref().filter(|name| !name.is_empty()) {
            Some(helper) => self.ask(helper, registry, path),
            None => Ok(None),
        }
    }

    /// Runs `docker-credential-NAME get`; nothing if it knows of none.
    fn ask(&self, name: &str, registry: &str, path: &Path) -> Result<Option<Credential>, OciError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            username: String,
            secret: String,
        }
        let helper = format!("docker-credential-{name}");
        let failed = |reason: String| OciError::CredentialHelper {
            helper: helper.clone(),
            registry: registry.to_owned(),
            path: path.to_owned(),
            reason,
        };
        if name.contains('/') {
            return Err(failed("its name has a slash in it".to_owned()));
        }
        let mut command = match &self.helper_path {
            None => Command::new(&helper),
            Some(dirs) => {
                let found = std::env::split_paths(dirs).map(|dir| dir.join(&helper)).find(|path| path.is_file());
                Command::new(found.ok_or_else(|| failed(format!("it is not in {}", dirs.display())))?)
            }
        };
        let mut child = command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("it cannot be run: {e}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            let server = if is_docker_hub(registry) { DOCKER_HUB } else { registry };
            // A helper that answers without reading has closed its end; its exit status is what counts.
            let _ = stdin.write_all(server.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            // The one way the protocol has of saying "I know of none".
            if said.contains("credentials not found") {
                return Ok(None);
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {} {}", output.status, said.trim(), errors.trim()).trim().to_owned()));
        }
        // The answer holds the secret, and serde's errors may quote what they found.
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|_| failed("its answer is not what the protocol has".to_owned()))?;
        Ok(Some(match answer.username.as_str() {
            "<token>" => Credential::Identity(answer.secret),
            _ => Credential::Basic(answer.username, answer.secret),
        }))
    }
}

impl AuthEntry {
    fn credential(&self, path: &Path) -> Result<Option<Credential>, OciError> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = some(&self.identitytoken) {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(token) = some(&self.registrytoken) {
            return Ok(Some(Credential::Bearer(token)));
        }
        if let Some(auth) = some(&self.auth) {
            let engine = GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
            );
            let decoded = engine.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            // Old dockers pad the password with NULs.
            return match decoded.as_deref().and_then(|text| text.split_once(':')) {
                Some((user, password)) => {
                    Ok(Some(Credential::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())))
                }
                None => Err(OciError::AuthFile {
                    path: path.to_owned(),
                    reason: "an 'auth' is not USER:PASSWORD in base64".to_owned(),
                }),
            };
        }
        Ok(match (some(&self.username), &self.password) {
            (Some(user), Some(password)) => Some(Credential::Basic(user, password.clone())),
            _ => None,
        })
    }
}

/// Looks up a registry under every spelling that docker has used for its key: `host`, `https://host`, `https://host/v1/`.
fn by_host<'a, T>(map: &'a BTreeMap<String, T>, registry: &str) -> Option<&'a T> {
    map.get(registry).or_else(|| map.iter().find(|(key, _)| is_host_key(key, registry)).map(|(_, value)| value))
}

fn is_host_key(key: &str, registry: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = match bare {
        Some(rest) => rest.split_once('/').map_or(rest, |(host, _)| host),
        // Without a scheme a path is a namespace, which is not the whole registry.
        None if key.contains('/') => return false,
        None => key,
    };
    host == registry || (is_docker_hub(host) && is_docker_hub(registry))
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
