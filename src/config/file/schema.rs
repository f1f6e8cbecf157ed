//! The file's JSON Schema, for editors.

use serde_json::json;

use super::entries::ConfigFile;
use super::patterns::definitions;
use super::read::FromYaml as _;

/// JSON Schema (draft 2020-12) of the configuration file, as YAML 1.2 reads it. `check` accepts what the schema
/// accepts, except for rules that need arithmetic (host bits, timers), the environment, or another entry.
pub fn schema() -> String {
    let mut schema = ConfigFile::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Configuration file of frr-supervisor");
    schema["$defs"] = definitions();
    // An empty file is valid.
    schema["type"] = json!(["object", "null"]);
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests;
