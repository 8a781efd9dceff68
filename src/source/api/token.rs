//! The bearer token of requests: fixed, from a file that changes, or from an exec plugin.
//!
//! kube has a layer for this. It runs plugins without a time limit on a thread that nothing can end, keeps a plugin's token
//! without an expiry for ever, takes no notice of a 401, prints a failed plugin's output, does not trim token files, and
//! panics at a fixed token that is no header value. Hence this.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::certificate::unix_s;
use super::reach::{Cause, Failure};
use crate::clear::Clear;
use crate::regular_file;

/// A token file is read again after this time; the kubelet renews projected tokens long before they expire.
const FILE_AGE_MAX: Duration = Duration::from_secs(60);
/// A plugin is asked for a new token this long before the old one expires.
const EXPIRY_MARGIN_S: u64 = 60;
/// A plugin is not run again within this time, whatever it came to and whatever the server says: hundreds of requests may
/// ask for its token.
const PLUGIN_PAUSE: Duration = Duration::from_secs(10);
/// A plugin has this long.
const PLUGIN_TIME_MAX: Duration = Duration::from_secs(20);
/// No token is longer.
const TOKEN_MAX_BYTES: usize = 64 * 1024;

/// Where the token comes from.
#[derive(Clone)]
pub(super) enum Source {
    /// There is none: a client certificate says who we are.
    None,
    /// It stands in the kubeconfig.
    Fixed(Clear),
    /// It is the contents of a file; until the file can be read, it is what the kubeconfig says besides.
    File { path: PathBuf, until_read: Option<Clear> },
    /// A program prints it.
    Exec(Plugin),
}

/// A program that prints an `ExecCredential`
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>).
#[derive(Clone)]
pub(super) struct Plugin {
    pub(super) command: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// `KUBERNETES_EXEC_INFO`.
    pub(super) info: String,
}

/// The token, as fresh as it has to be.
pub(super) struct Tokens {
    source: Source,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    header: Option<HeaderValue>,
    /// When `header` was got.
    at: Option<Instant>,
    /// When the token expires by the wall clock.
    expires_unix_s: Option<u64>,
    /// The server did not take it.
    refused: bool,
    /// When the plugin failed last, and how.
    failed: Option<(Instant, Failure)>,
}

impl Tokens {
    pub(super) fn new(source: Source) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// The value of `Authorization`; none where a client certificate is all.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, Failure> {
        match &self.source {
            Source::None => Ok(None),
            Source::Fixed(token) => bearer(token.expose()).map(Some).map_err(|error| no_token(error.to_owned())),
            Source::File { path, until_read } => self.read_file(path, until_read.as_ref()).await.map(Some),
            Source::Exec(plugin) => self.ask_plugin(plugin).await.map(Some),
        }
    }

    /// To be said after a 401: the next request reads the file, or runs the plugin, again.
    pub(super) async fn refused(&self) {
        self.state.lock().await.refused = true;
    }

    async fn read_file(&self, path: &Path, until_read: Option<&Clear>) -> Result<HeaderValue, Failure> {
        let mut state = self.state.lock().await;
        let fresh = !state.refused && state.at.is_some_and(|at| at.elapsed() < FILE_AGE_MAX);
        if fresh && let Some(header) = &state.header {
            return Ok(header.clone());
        }
        let read = match regular_file::read(path, TOKEN_MAX_BYTES) {
            Ok(file) => bearer(file.contents.expose()).map_err(str::to_owned),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(header) => {
                *state = State { header: Some(header.clone()), at: Some(Instant::now()), ..State::default() };
                Ok(header)
            }
            // The last token may do: some remove the file on purpose (kubernetes issue 68164).
            Err(error) => match (&state.header, until_read) {
                (Some(header), _) => Ok(header.clone()),
                (None, Some(token)) => bearer(token.expose()).map_err(|error| no_token(error.to_owned())),
                (None, None) => Err(no_token(format!("token file {}: {error}", path.display()))),
            },
        }
    }

    async fn ask_plugin(&self, plugin: &Plugin) -> Result<HeaderValue, Failure> {
        // Held while the plugin runs, so that it runs once for all who wait.
        let mut state = self.state.lock().await;
        if let (Some(header), Some(at)) = (&state.header, state.at) {
            let expired = state.expires_unix_s.is_some_and(|at| now_unix_s() + EXPIRY_MARGIN_S >= at);
            if at.elapsed() < PLUGIN_PAUSE || !expired && !state.refused {
                return Ok(header.clone());
            }
        }
        if let Some((at, failure)) = &state.failed
            && at.elapsed() < PLUGIN_PAUSE
        {
            return Err(failure.clone());
        }
        match plugin.run().await {
            Ok((header, expires_unix_s)) => {
                let at = Some(Instant::now());
                *state = State { header: Some(header.clone()), at, expires_unix_s, ..State::default() };
                Ok(header)
            }
            Err(what) => {
                let failure = no_token(format!("exec plugin {} of the kubeconfig {what}", plugin.command));
                state.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }
}

impl Plugin {
    /// Its token, and when that expires. The error ends a sentence that begins with the plugin; it has none of its output,
    /// which may be a token.
    async fn run(&self) -> Result<(HeaderValue, Option<u64>), String> {
        #[derive(Deserialize)]
        struct ExecCredential {
            status: Option<Status>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            token: Option<String>,
            expiration_timestamp: Option<String>,
            client_certificate_data: Option<serde::de::IgnoredAny>,
        }
        let output = Command::new(&self.command)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", &self.info)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(PLUGIN_TIME_MAX, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("can't be run: {error}")),
            Err(_) => return Err(format!("gave no answer within {} s", PLUGIN_TIME_MAX.as_secs())),
        };
        let printed = Clear::new(output.stdout);
        if !output.status.success() {
            return Err(format!("failed: {}; run it by hand to see why", output.status));
        }
        let Ok(ExecCredential { status: Some(status) }) = serde_json::from_slice(printed.expose()) else {
            return Err("printed no ExecCredential with a status".to_owned());
        };
        let Some(token) = status.token.map(Clear::from) else {
            let instead =
                status.client_certificate_data.map_or("", |_| " but a client certificate, which is not supported");
            return Err(format!("printed no token{instead}"));
        };
        let header = bearer(token.expose()).map_err(|error| format!("printed a bad token: {error}"))?;
        Ok((header, status.expiration_timestamp.and_then(|date| unix_s(&date))))
    }
}

fn no_token(what: String) -> Failure {
    Failure::NoToken(Cause(what))
}

/// `Bearer <token>`, of a token with any white space around it.
fn bearer(token: &[u8]) -> Result<HeaderValue, &'static str> {
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err("it is empty");
    }
    let text = Clear::new([b"Bearer ", token].concat());
    let mut header = HeaderValue::from_bytes(text.expose()).map_err(|_| "it has characters that no token has")?;
    // Its `Debug` hides it, and HPACK never puts it into a table.
    header.set_sensitive(true);
    Ok(header)
}

/// The expiry that a plugin names is of the wall clock.
fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::{advance, pause, resume};

    async fn token(tokens: &Tokens) -> Result<String, String> {
        match tokens.header().await {
            Ok(header) => Ok(header.map_or_else(String::new, |header| header.to_str().unwrap().to_owned())),
            Err(Failure::NoToken(cause)) => Err(cause.0),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_is_trimmed_and_hidden() {
        let header = bearer(b" s3cret\n").unwrap();
        assert_eq!(header.as_bytes(), b"Bearer s3cret");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert_eq!(bearer(b" \n").unwrap_err(), "it is empty");
        assert_eq!(bearer(b"a\nb").unwrap_err(), "it has characters that no token has");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_read_again_each_minute_and_after_a_401() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let tokens = Tokens::new(Source::File { path: path.clone(), until_read: None });
        assert!(token(&tokens).await.unwrap_err().contains("/token: it can't be opened"));
        fs::write(&path, "one\n").unwrap();
        assert_eq!(token(&tokens).await.unwrap(), "Bearer one");
        fs::write(&path, "two").unwrap();
        advance(FILE_AGE_MAX - Duration::from_millis(1)).await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer one");
        advance(Duration::from_millis(1)).await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer two");
        fs::write(&path, "three").unwrap();
        tokens.refused().await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer three");
        // Half-written or gone: the last one stays.
        fs::write(&path, "").unwrap();
        tokens.refused().await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer three");
        fs::remove_file(&path).unwrap();
        assert_eq!(token(&tokens).await.unwrap(), "Bearer three");
    }

    #[tokio::test]
    async fn the_kubeconfig_s_token_serves_until_the_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let tokens = Tokens::new(Source::File { path: path.clone(), until_read: Some(Clear::new(b"old".to_vec())) });
        assert_eq!(token(&tokens).await.unwrap(), "Bearer old");
        fs::write(&path, "new").unwrap();
        assert_eq!(token(&tokens).await.unwrap(), "Bearer new");
    }

    fn plugin(dir: &Path, script: &str) -> Plugin {
        let path = dir.join("plugin");
        fs::write(&path, format!("echo run >> {}/runs\n{script}\n", dir.display())).unwrap();
        // Not run as a program itself: another test that forks while it is written would make that fail (ETXTBSY).
        Plugin {
            command: "/bin/sh".into(),
            arguments: vec![path.to_str().unwrap().to_owned(), "first".into()],
            environment: vec![("EXTRA".into(), "extra".into())],
            info: "info".into(),
        }
    }

    fn runs(dir: &Path) -> usize {
        fs::read_to_string(dir.join("runs")).map_or(0, |runs| runs.lines().count())
    }

    /// Moves the clock, which runs by itself while a plugin does.
    async fn pass(time: Duration) {
        pause();
        advance(time).await;
        resume();
    }

    #[tokio::test]
    async fn a_plugin_is_run_again_after_a_401_but_not_for_each() {
        let dir = tempfile::tempdir().unwrap();
        let print =
            r#"echo "{\"status\":{\"token\":\"$1-$EXTRA-$KUBERNETES_EXEC_INFO-$(wc -l < "$(dirname "$0")/runs")\"}}""#;
        let tokens = Tokens::new(Source::Exec(plugin(dir.path(), print)));
        assert_eq!(token(&tokens).await.unwrap(), "Bearer first-extra-info-1");
        pass(Duration::from_secs(3600)).await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer first-extra-info-1");
        tokens.refused().await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer first-extra-info-2");
        tokens.refused().await;
        pass(PLUGIN_PAUSE / 2).await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer first-extra-info-2");
        pass(PLUGIN_PAUSE / 2).await;
        assert_eq!(token(&tokens).await.unwrap(), "Bearer first-extra-info-3");
        assert_eq!(runs(dir.path()), 3);
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_not_run_for_each_request() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(Source::Exec(plugin(dir.path(), "exit 3")));
        let first = token(&tokens).await.unwrap_err();
        for _ in 0..20 {
            assert_eq!(token(&tokens).await.unwrap_err(), first);
        }
        assert_eq!(runs(dir.path()), 1);
        pass(PLUGIN_PAUSE).await;
        assert_eq!(token(&tokens).await.unwrap_err(), first);
        assert_eq!(runs(dir.path()), 2);
    }

    #[tokio::test]
    async fn a_plugin_is_run_again_before_its_token_expires() {
        let dir = tempfile::tempdir().unwrap();
        let table = [("2000-01-01T00:00:00Z", 2), ("2999-01-01T00:00:00Z", 1)];
        for (date, expected) in table {
            let _ = fs::remove_file(dir.path().join("runs"));
            let print = format!(r#"echo '{{"status":{{"token":"t","expirationTimestamp":"{date}"}}}}'"#);
            let tokens = Tokens::new(Source::Exec(plugin(dir.path(), &print)));
            assert_eq!(token(&tokens).await.unwrap(), "Bearer t");
            pass(PLUGIN_PAUSE).await;
            assert_eq!(token(&tokens).await.unwrap(), "Bearer t");
            assert_eq!(runs(dir.path()), expected, "{date}");
        }
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_named_and_its_output_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        #[rustfmt::skip]
        let table = [
            ("echo s3cret; echo s3cret >&2; exit 3", "failed: exit status: 3; run it by hand to see why"),
            ("echo s3cret",                          "printed no ExecCredential with a status"),
            (r#"echo '{"kind":"ExecCredential"}'"#,  "printed no ExecCredential with a status"),
            (r#"echo '{"status":{}}'"#,              "printed no token"),
            (r#"echo '{"status":{"clientCertificateData":"s3cret"}}'"#,
                                                     "printed no token but a client certificate, which is not supported"),
            (r#"printf '%s' '{"status":{"token":"s3\ncret"}}'"#,
                                                     "printed a bad token: it has characters that no token has"),
        ];
        for (script, expected) in table {
            let plugin = plugin(dir.path(), script);
            let said = token(&Tokens::new(Source::Exec(plugin))).await.unwrap_err();
            assert_eq!(said, format!("exec plugin /bin/sh of the kubeconfig {expected}"));
        }
        let absent = Plugin { command: "/nowhere/plugin".into(), ..plugin(dir.path(), "") };
        let said = token(&Tokens::new(Source::Exec(absent))).await.unwrap_err();
        assert!(said.starts_with("exec plugin /nowhere/plugin of the kubeconfig can't be run: No such file"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(Source::Exec(plugin(dir.path(), "exec sleep 1000")));
        let said = token(&tokens).await.unwrap_err();
        assert!(said.ends_with("gave no answer within 20 s"), "{said}");
    }
}
