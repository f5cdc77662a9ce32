//! Leaving secrets out: what goes into a support bundle is what a stranger may read.

use serde_json::Value;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "«left out»";

/// Words in a name that make its value a secret.
const SECRET: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE",
    "AUTH",
    "COOKIE",
    "DSN",
];
/// Starts of words that are secrets wherever they stand.
const MARKS: &[&str] =
    &["hf_", "ghp_", "gho_", "github_pat_", "glpat-", "sk-", "nvapi-", "AKIA", "ASIA", "xoxb-", "eyJ", "AIza"];

/// Whether a variable or flag of this name holds a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    SECRET.iter().any(|word| name.contains(word)) || name.ends_with("_KEY") || name == "KEY"
}

/// A text without what looks like a secret.
pub fn text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut hide_next, mut last) = (false, false);
    for (index, word) in text.split_inclusive(char::is_whitespace).enumerate() {
        let bare = word.trim_end();
        let space = &word[bare.len()..];
        if bare.is_empty() {
            clean.push_str(space);
            continue;
        }
        let hidden = std::mem::take(&mut hide_next).then(|| HIDDEN.to_owned());
        clean.push_str(&hidden.unwrap_or_else(|| of_word(bare)));
        clean.push_str(space);
        // `token: X`, `"token": "X"`.
        let name = bare.trim_end_matches([':', '=']).trim_matches(|c: char| !c.is_alphanumeric());
        let announced = bare.ends_with([':', '=']) && (is_secret(name) || (name.is_empty() && last));
        last = is_secret(name);
        let lower = bare.trim_matches(|c: char| !c.is_alphanumeric() && c != '-').to_ascii_lowercase();
        // `Authorization: Bearer X`, `--hf-token X`.
        hide_next = announced
            || lower == "bearer"
            || lower == "basic" && index > 0
            || (bare.starts_with("--") && !bare.contains('=') && is_secret(bare));
    }
    clean
}

fn of_word(word: &str) -> String {
    // NAME=value, --name=value, "name":"value", and a password in an address.
    for separator in ['=', ':'] {
        if let Some((name, value)) = word.split_once(separator) {
            let bare = name.trim_start_matches(['-', '"', '\'', '{', ',', '(', '[']).trim_end_matches(['"', '\'']);
            let value_is_word = !value.trim_matches(['"', '\'']).is_empty();
            if !bare.is_empty()
                && bare.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c))
                && is_secret(bare)
                && value_is_word
            {
                return format!("{name}{separator}{HIDDEN}");
            }
        }
    }
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, host)) = rest.split_once('@')
        && user.contains(':')
    {
        return format!("{scheme}://{HIDDEN}@{host}");
    }
    let mut pieces = word.split(|c: char| !(c.is_alphanumeric() || "_-./+".contains(c)));
    let secret = |piece: &str| piece.len() >= 16 && MARKS.iter().any(|mark| piece.starts_with(mark));
    if pieces.any(secret) { HIDDEN.to_owned() } else { word.to_owned() }
}

/// An object of the API without secrets: values of variables with a secret's name, what looks like a secret anywhere, what
/// `kubectl apply` keeps, and who wrote which field.
pub fn object(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            map.remove("kubectl.kubernetes.io/last-applied-configuration");
            let named = map.get("name").and_then(Value::as_str).is_some_and(is_secret);
            if named && map.get("value").is_some_and(Value::is_string) {
                map.insert("value".into(), Value::String(HIDDEN.into()));
            }
            for (key, value) in map.iter_mut() {
                if value.is_string() && is_secret(key) {
                    *value = Value::String(HIDDEN.into());
                } else if (key == "args" || key == "command") && value.is_array() {
                    words(value);
                } else {
                    object(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(object),
        Value::String(string) => *string = text(string),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A command line: a secret's flag and its value are words of their own.
fn words(list: &mut Value) {
    let mut hide_next = false;
    for word in list.as_array_mut().into_iter().flatten() {
        let Value::String(word) = word else { continue };
        let flag = word.starts_with("--") && !word.contains('=') && is_secret(word);
        *word = if std::mem::replace(&mut hide_next, flag) { HIDDEN.into() } else { text(word) };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{HIDDEN, object, text};

    #[test]
    fn texts() {
        for (secret, kept) in [
            ("HF_TOKEN=hf_abcdefghijklmnop", "HF_TOKEN="),
            ("using --api-key abcdef now", "now"),
            ("using --api-key=abcdef now", "now"),
            ("Authorization: Bearer abcdef.ghi", "Authorization"),
            ("got eyJhbGciOiJSUzI1NiIsImtpZCI6 here", "here"),
            (r#"{"password":"abcdef"}"#, "password"),
            ("postgres://user:abcdef@db:5432/x", "@db:5432/x"),
            (r#"{"token": "abcdef"}"#, "token"),
            ("password = abcdef", "password"),
            ("key nvapi-abcdefghijklmnopqrst", "key"),
        ] {
            let clean = text(secret);
            assert!(clean.contains(HIDDEN) && clean.contains(kept), "{secret} → {clean}");
            assert!(!clean.contains("abcdef") && !clean.contains("eyJhbG"), "{secret} → {clean}");
        }
        for fine in [
            "NIXL INFO Backend UCX was instantiated",
            "UCX_TLS=rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc  UCX_NET_DEVICES=mlx5_0:1",
            "max_num_batched_tokens=8192 --kv-transfer-config {\"kv_connector\":\"NixlConnector\"}",
            "",
        ] {
            // A count of tokens is hidden with them: better one number too few.
            let clean = text(fine);
            assert!(!clean.contains(HIDDEN) || fine.contains("tokens"), "{clean}");
        }
    }

    #[test]
    fn objects() {
        let mut pod = json!({
            "metadata": {"managedFields": [1], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cret"}},
            "spec": {"containers": [{
                "args": ["serve", "--hf-token", "s3cret", "--model", "m"],
                "env": [
                    {"name": "HF_TOKEN", "value": "s3cret"},
                    {"name": "UCX_TLS", "value": "rc"},
                    {"name": "DB", "valueFrom": {"secretKeyRef": {"name": "db-token", "key": "dsn"}}},
                ],
            }]},
        });
        object(&mut pod);
        let clean = pod.to_string();
        assert!(!clean.contains("s3cret") && !clean.contains("managedFields"), "{clean}");
        assert!(clean.contains("\"rc\"") && clean.contains("db-token") && clean.contains("--model"), "{clean}");
    }
}
