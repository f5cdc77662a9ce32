//! The settings in force, all of UCX's tables: those of UCP, of each transport and of each loaded module.

use std::{collections::BTreeMap, ffi::CStr, ptr};

use crate::{Error, Library, bindings::ucs::UCS_CONFIG_PRINT_CONFIG, library::symbol, printer::printed, text};

/// A prefix that no variable has: under it, UCX prints its built-in values.
const NOBODYS: &CStr = c"RAILBIND_NOBODYS_";
const UCX: &CStr = c"UCX_";

/// One setting whose value in force is not the built-in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name, with its `UCX_`.
    pub name: String,
    /// Value in force, from the environment or from `ucx.conf`.
    pub value: String,
    /// What it would be otherwise.
    pub default: String,
}

impl Library {
    /// The settings that the environment or `ucx.conf` changed. Ask after a context was made: modules register their tables when
    /// they are loaded.
    pub fn settings(&self) -> Result<Vec<Setting>, Error> {
        Ok(changed(&self.table(UCX)?, &self.table(NOBODYS)?))
    }

    /// Makes UCX log, as a warning, the `UCX_` variables that none of its tables has read; [`text::unused`] understands it. Ask
    /// after [`Self::settings`], which reads them all: what is left is unknown to this UCX. It does so once in a process.
    pub fn log_unused_variables(&self) -> Result<(), Error> {
        self.inner()?;
        let log = symbol(&self.ucs.ucs_config_parser_print_env_vars_once, "ucs_config_parser_print_env_vars_once")?;
        // SAFETY: the prefix ends with NUL; UCX reads the environment, which no thread of ours changes.
        unsafe { log(UCX.as_ptr()) };
        Ok(())
    }

    fn table(&self, prefix: &'static CStr) -> Result<BTreeMap<String, String>, Error> {
        self.inner()?;
        let print = symbol(&self.ucs.ucs_config_parser_print_all_opts, "ucs_config_parser_print_all_opts")?;
        let list = symbol(&self.ucs.ucs_config_global_list, "ucs_config_global_list")?;
        let text = printed(|stream| {
            // SAFETY: stream, prefix and UCX's own list live through the call. The last argument came with 1.19: an older library
            // does not look at it, and no filter is asked for.
            unsafe { print(stream.cast(), prefix.as_ptr(), UCS_CONFIG_PRINT_CONFIG, list, ptr::null()) };
        })?;
        Ok(text::settings(&text, &prefix.to_string_lossy()))
    }
}

fn changed(now: &BTreeMap<String, String>, built_in: &BTreeMap<String, String>) -> Vec<Setting> {
    let differing = now.iter().filter_map(|(name, value)| {
        let default = built_in.get(name)?;
        (default != value).then(|| Setting {
            name: format!("UCX_{name}"),
            value: value.clone(),
            default: default.clone(),
        })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_a_change() {
        let table = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let now = table(&[("TLS", "tcp"), ("NET_DEVICES", "all"), ("NEW", "1")]);
        let built_in = table(&[("TLS", "all"), ("NET_DEVICES", "all")]);
        let expected = Setting { name: "UCX_TLS".into(), value: "tcp".into(), default: "all".into() };
        assert_eq!(changed(&now, &built_in), [expected]);
    }
}
