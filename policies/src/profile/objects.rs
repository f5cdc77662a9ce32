//! The cluster's own profiles as both programs take them: each in the place of the shipped one of its name, as far as it makes sense.
//!
//! An object that makes no sense changes nothing: the last good one of its name stays, else the shipped one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{ProfileError, Profiles, TransportProfile};

impl TransportProfile {
    /// Reads an object of the cluster. Of its metadata the name is read, and no status.
    ///
    /// # Errors
    /// An unknown field of the spec or a wrong type; or content that makes no sense, with its field.
    pub fn of_object(object: &Value) -> Result<Self, ProfileError> {
        let name = name_of(object);
        let plain = json!({
            "apiVersion": object["apiVersion"],
            "kind": object["kind"],
            "metadata": {"name": name},
            "spec": object["spec"],
        });
        let profile: Self = serde_json::from_value(plain)
            .map_err(|error| ProfileError::Syntax { file: name.into(), cause: error.to_string() })?;
        profile.check(name)?;
        Ok(profile)
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The cluster's own profiles, as far as they make sense, over those that ship.
#[derive(Debug)]
pub struct Objects {
    shipped: Profiles,
    good: BTreeMap<String, TransportProfile>,
    wrong: BTreeMap<String, String>,
}

impl Objects {
    /// None yet.
    pub fn new(shipped: Profiles) -> Self {
        Self { shipped, good: BTreeMap::new(), wrong: BTreeMap::new() }
    }

    /// Takes an object, and gives its name. Where it makes no sense, [`Self::wrong`] says why and which one stays in force.
    pub fn take(&mut self, object: &Value) -> String {
        let name = name_of(object).to_owned();
        match TransportProfile::of_object(object) {
            Ok(profile) => {
                self.wrong.remove(&name);
                self.good.insert(name.clone(), profile);
            }
            Err(error) => {
                let stays = match (self.good.contains_key(&name), self.shipped.get(&name)) {
                    (true, _) => "the last good one stays in force",
                    (false, Some(_)) => "the one that ships stays in force",
                    (false, None) => "there is no such profile",
                };
                self.wrong.insert(name.clone(), format!("{error}; until it is corrected, {stays}"));
            }
        }
        name
    }

    /// There is no object of this name any more.
    pub fn forget(&mut self, name: &str) {
        self.good.remove(name);
        self.wrong.remove(name);
    }

    /// There are objects of these names alone.
    pub fn only(&mut self, names: &BTreeSet<String>) {
        self.good.retain(|name, _| names.contains(name));
        self.wrong.retain(|name, _| names.contains(name));
    }

    /// Takes a whole list: what is not in it is gone.
    pub fn replace(&mut self, list: &[Value]) {
        let names = list.iter().map(|object| self.take(object)).collect();
        self.only(&names);
    }

    /// What is in force.
    pub fn in_force(&self) -> Profiles {
        self.shipped.overridden_by(self.good.values().cloned())
    }

    /// How many of the cluster's own are in force.
    pub fn good(&self) -> usize {
        self.good.len()
    }

    /// Those that make no sense, with why and with which one stays in force.
    pub fn wrong(&self) -> &BTreeMap<String, String> {
        &self.wrong
    }

    /// The same as a note for people; empty where all make sense.
    pub fn note(&self) -> String {
        let wrong: Vec<String> =
            self.wrong.iter().map(|(name, why)| format!("{name} is not in force: {why}")).collect();
        wrong.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let embedded = Profiles::embedded().unwrap();
        let mut profile = serde_json::to_value(embedded.get("tcp").unwrap()).unwrap();
        // As the API server gives it.
        profile["metadata"] = json!({"name": name, "resourceVersion": "7", "annotations": {"a": "b"}});
        change(&mut profile["spec"]);
        profile
    }

    fn description(objects: &Objects) -> String {
        objects.in_force().get("tcp").unwrap().spec.description.clone()
    }

    #[test]
    fn objects_override_by_name_and_the_last_good_one_stays() {
        let mut objects = Objects::new(Profiles::embedded().unwrap());
        let embedded = description(&objects);
        objects.replace(&[]);
        assert_eq!((description(&objects), objects.note()), (embedded.clone(), String::new()));

        assert_eq!(objects.take(&object("tcp", |spec| spec["description"] = json!("ours"))), "tcp");
        assert_eq!(description(&objects), "ours");
        objects.take(&object("tcp", |spec| spec["env"][0]["name"] = json!("ucx-tls")));
        assert_eq!((description(&objects).as_str(), objects.good()), ("ours", 1));
        assert!(objects.wrong()["tcp"].contains("spec.env[0]"), "{:?}", objects.wrong());
        objects.take(&object("tcp", |spec| spec["colour"] = json!("red")));
        let note = objects.note();
        assert!(note.contains("colour") && note.contains("the last good one stays"), "{note}");

        objects.take(&object("own", |spec| spec["set"] = json!("own")));
        assert!(objects.in_force().has_set("own"));
        // A list without it: it is gone, and with it what was wrong.
        objects.replace(&[object("own", |spec| spec["set"] = json!("own"))]);
        assert_eq!((description(&objects), objects.note()), (embedded, String::new()));
        objects.forget("own");
        assert!(!objects.in_force().has_set("own"));
    }

    #[test]
    fn a_bad_object_without_a_good_one_before_it_leaves_what_ships() {
        let mut objects = Objects::new(Profiles::embedded().unwrap());
        let embedded = description(&objects);
        let bad = |name| object(name, |spec| spec["when"] = json!({"fabric": []}));
        objects.replace(&[bad("tcp"), bad("own"), json!({}), json!("not an object")]);
        assert_eq!((description(&objects), objects.good()), (embedded, 0));
        assert!(objects.wrong()["tcp"].contains("the one that ships stays"), "{:?}", objects.wrong());
        assert!(objects.wrong()["own"].contains("there is no such profile"), "{:?}", objects.wrong());
    }
}
