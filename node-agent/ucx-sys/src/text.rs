//! What UCX only says as text, understood. Nothing here touches UCX, or the machine; text that makes no sense gives nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A line of UCX's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `WARN`, `ERROR`, `FATAL`…
    pub level: String,
    /// The rest.
    pub text: String,
}

/// A `UCX_` variable that nothing in UCX read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Its name.
    pub name: String,
    /// What UCX (1.14 and later) thinks was meant.
    pub meant: Option<String>,
}

/// The messages of a log. Lines that are not UCX's (a loader's, an assertion's backtrace) are left out.
///
/// `[1732486842.163550] [node:1:0]          parser.c:1908 UCX  WARN  unused env variable: UCX_TLZ`
pub fn messages(log: &str) -> Vec<Message> {
    let lines = log.lines().filter_map(|line| {
        let (origin, rest) = line.split_once(" UCX ")?;
        if !origin.starts_with('[') {
            return None;
        }
        let (level, text) = rest.trim_start().split_once(' ')?;
        let known = ["FATAL", "ERROR", "WARN", "DIAG", "INFO"].contains(&level);
        known.then(|| Message { level: level.into(), text: text.trim().into() })
    });
    lines.collect()
}

/// The variables that UCX says it did not use. `None` for a message about something else.
///
/// Until 1.13 `unused env variables: A,B (set …)`; since 1.14 `unused environment variables: A (maybe: X, Y?); B`.
pub fn unused(message: &Message) -> Option<Vec<Unused>> {
    let list = message.text.strip_prefix("unused env")?;
    let list = list.strip_prefix("ironment").unwrap_or(list).trim_start().strip_prefix("variable")?;
    let list = list.strip_prefix('s').unwrap_or(list).strip_prefix(':')?;
    let list = list.split("(set UCX_WARN_UNUSED_ENV_VARS").next()?;
    let separator = if list.contains("(maybe:") || list.contains(';') { ';' } else { ',' };
    let variables = list.split(separator).filter_map(|item| {
        let (name, hint) = item.split_once('(').unwrap_or((item, ""));
        let meant = hint.trim().strip_prefix("maybe:").and_then(|hint| hint.trim().strip_suffix("?)")).map(Into::into);
        let name = name.trim();
        (!name.is_empty()).then(|| Unused { name: name.into(), meant })
    });
    Some(variables.collect())
}

/// The `transport/device` pairs that a context uses, from `ucp_context_print_info`.
///
/// `#      resource 1  :  md 1  dev 1  flags -- tcp/eth0`
pub fn resources(info: &str) -> Vec<String> {
    let lines = info.lines().filter_map(|line| {
        let mut words = line.trim_start_matches('#').split_whitespace();
        (words.next()? == "resource").then_some(())?;
        let pair = words.next_back()?;
        let (transport, device) = pair.split_once('/')?;
        (!transport.is_empty() && !device.is_empty()).then(|| pair.to_owned())
    });
    lines.collect()
}

/// One lane of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// `tcp/eth0`.
    pub pair: String,
    /// What it is for: `rma_bw`, `am`…, without numbers.
    pub uses: Vec<String>,
}

/// The lanes of an endpoint, from `ucp_ep_print_info`.
///
/// `#               lane[0]:  1:tcp/lo.0 md[1]           -> md[1]/tcp/sysdev[255] rma_bw#0 am am_bw#0 wireup`
pub fn lanes(info: &str) -> Vec<Lane> {
    let lines = info.lines().filter_map(|line| {
        let rest = line.trim_start_matches('#').trim_start().strip_prefix("lane[")?;
        let (_, rest) = rest.split_once("]:")?;
        let mut words = rest.split_whitespace();
        let (_, resource) = words.next()?.split_once(':')?;
        // The path's number ends it: `mlx5_0:1.0`.
        let (pair, _) = resource.rsplit_once('.')?;
        pair.contains('/').then(|| Lane {
            pair: pair.into(),
            uses: words
                .filter(|word| !word.contains(['[', '>']))
                .map(|word| word.split('#').next().unwrap_or(word).into())
                .collect(),
        })
    });
    lines.collect()
}

/// The transports that the description of a request names, in the order in which they are named and without a path's number, each
/// with its share in per cent where one is told.
///
/// `put from host memory length 1048576 zero-copy 50% on rc_mlx5/mlx5_0:1/path0 and 50% on rc_mlx5/mlx5_1:1/path0`
pub fn used(info: &str) -> Vec<(String, Option<u32>)> {
    let mut found: Vec<(String, Option<u32>)> = Vec::new();
    let words: Vec<&str> = info.split_whitespace().collect();
    for (index, word) in words.iter().enumerate() {
        let mut parts = word.trim_matches([',', ';', '(', ')']).splitn(3, '/');
        let (Some(transport), Some(device)) = (parts.next(), parts.next()) else { continue };
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        // `cuda/GPU0` is memory, and `11256.2 MB/s` a rate.
        if !plain(transport)
            || device.is_empty()
            || device.starts_with("GPU")
            || transport.starts_with(|c: char| c.is_ascii_digit())
        {
            continue;
        }
        let share = index.checked_sub(2).filter(|_| words[index - 1] == "on");
        let share = share.and_then(|at| words[at].strip_suffix('%')?.parse().ok());
        let pair = format!("{transport}/{device}");
        match found.iter_mut().find(|(known, _)| *known == pair) {
            Some((_, known)) => *known = known.zip(share).map(|(a, b): (u32, u32)| a + b),
            None => found.push((pair, share)),
        }
    }
    found
}

/// The description of a request without its flags in braces, and without the speed that UCX expects of it.
pub fn told(info: &str) -> String {
    let info = info.strip_prefix('{').and_then(|rest| rest.split_once("} ")).map_or(info, |(_, rest)| rest);
    let words: Vec<&str> = info.split_whitespace().collect();
    let expected = words.windows(2).position(|pair| pair[1].ends_with("B/s") && pair[0].parse::<f64>().is_ok());
    words[..expected.unwrap_or(words.len())].join(" ")
}

/// What the description of a request says of how the bytes move: all between the length and the first transport.
pub fn protocol(info: &str) -> Option<String> {
    let (_, rest) = info.split_once(" length ")?;
    let (_, rest) = rest.split_once(' ')?;
    let words = rest.split_whitespace().take_while(|word| !word.contains('/') && !word.ends_with('%'));
    let text = words.collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// The settings of a dump, without their prefix. A line that is no setting belongs to nothing.
pub fn settings(dump: &str, prefix: &str) -> BTreeMap<String, String> {
    let lines = dump.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix(prefix)?.split_once('=')?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        plain.then(|| (name.to_owned(), value.to_owned()))
    });
    lines.collect()
}

/// UCX's files in a `/proc/PID/maps`, each once.
pub fn mapped_files(maps: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in maps.lines() {
        let Some(start) = line.find('/') else { continue };
        let path = Path::new(&line[start..]);
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let ours = ["libucm", "libucs", "libuct", "libucp"].iter().any(|stem| name.starts_with(stem));
        if ours && name.contains(".so") && !files.iter().any(|file| file == path) {
            files.push(path.to_path_buf());
        }
    }
    files
}

#[cfg(test)]
mod tests;
