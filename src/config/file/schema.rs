//! The file's JSON Schema, for editors.

use serde_json::json;

use super::entries::Document;
use super::read::Read as _;

/// JSON Schema (draft 2020-12) of the configuration file.
pub fn schema() -> String {
    let mut schema = Document::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Configuration file of frr-supervisor");
    // An empty file is fine.
    schema["type"] = json!(["object", "null"]);
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    /// `SCHEMA_WRITE=1 cargo test schema` writes it anew.
    #[test]
    fn the_schema_is_shipped() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.schema.json");
        let wanted = super::schema();
        if std::env::var_os("SCHEMA_WRITE").is_some() {
            return std::fs::write(path, &wanted).unwrap();
        }
        let shipped = std::fs::read_to_string(path).unwrap_or_default();
        assert!(shipped == wanted, "run SCHEMA_WRITE=1 cargo test schema");
    }
}
