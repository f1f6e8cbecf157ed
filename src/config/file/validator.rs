//! A JSON Schema validator (draft 2020-12) for the keywords of the file's schema. An unknown keyword is a test failure.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value as Json};

#[derive(Debug)]
pub(super) struct Validator {
    schema: Json,
    patterns: RefCell<HashMap<String, Regex>>,
}

impl Validator {
    pub fn new(schema: Json) -> Self {
        Self { schema, patterns: RefCell::default() }
    }

    pub fn accepts(&self, value: &Json) -> bool {
        self.is_valid(&self.schema, value)
    }

    fn is_valid(&self, schema: &Json, value: &Json) -> bool {
        let schema = schema.as_object().unwrap();
        schema.iter().all(|(keyword, rule)| self.keyword(keyword, rule, schema, value))
    }

    fn keyword(&self, keyword: &str, rule: &Json, schema: &Map<String, Json>, value: &Json) -> bool {
        let all =
            |rule: &Json| rule.as_array().unwrap().iter().filter(|rule| self.is_valid(rule, value)).count();
        let has = |key: &Json| value.as_object().is_none_or(|map| map.contains_key(key.as_str().unwrap()));
        let number = |rule: &Json| rule.as_f64().unwrap();
        let length = |rule: &Json| usize::try_from(rule.as_u64().unwrap()).unwrap();
        let (text, list, map) = (value.as_str(), value.as_array(), value.as_object());
        match keyword {
            "$schema" | "$defs" | "title" | "description" | "then" | "minContains" | "maxContains" => true,
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                self.is_valid(&self.schema["$defs"][name], value)
            }
            "type" => match rule {
                Json::Array(types) => types.iter().any(|name| has_type(name, value)),
                name => has_type(name, value),
            },
            "enum" => rule.as_array().unwrap().iter().any(|one| is_equal(one, value)),
            "const" => is_equal(rule, value),
            "not" => !self.is_valid(rule, value),
            "allOf" => all(rule) == rule.as_array().unwrap().len(),
            "anyOf" => all(rule) > 0,
            "oneOf" => all(rule) == 1,
            "if" => !self.is_valid(rule, value) || self.is_valid(&schema["then"], value),
            "required" => rule.as_array().unwrap().iter().all(has),
            "dependentRequired" => rule.as_object().unwrap().iter().all(|(key, others)| {
                map.is_none_or(|map| !map.contains_key(key)) || others.as_array().unwrap().iter().all(has)
            }),
            "properties" => {
                let fits = |(key, rule): (&String, &Json)| {
                    map.and_then(|map| map.get(key)).is_none_or(|value| self.is_valid(rule, value))
                };
                rule.as_object().unwrap().iter().all(fits)
            }
            "additionalProperties" => {
                assert_eq!(*rule, Json::Bool(false));
                let known = schema["properties"].as_object().unwrap();
                map.is_none_or(|map| map.keys().all(|key| known.contains_key(key)))
            }
            "minProperties" => map.is_none_or(|map| map.len() >= length(rule)),
            "maxProperties" => map.is_none_or(|map| map.len() <= length(rule)),
            "items" => list.is_none_or(|list| list.iter().all(|item| self.is_valid(rule, item))),
            "minItems" => list.is_none_or(|list| list.len() >= length(rule)),
            "maxItems" => list.is_none_or(|list| list.len() <= length(rule)),
            "contains" => list.is_none_or(|list| {
                let limit = |name| schema.get(name).map(length);
                let count = list.iter().filter(|item| self.is_valid(rule, item)).count();
                count >= limit("minContains").unwrap_or(1)
                    && limit("maxContains").is_none_or(|max| count <= max)
            }),
            "pattern" => text.is_none_or(|text| {
                let pattern = rule.as_str().unwrap();
                let mut patterns = self.patterns.borrow_mut();

                let new = || Regex::new(pattern).unwrap();
                patterns.entry(pattern.into()).or_insert_with(new).is_match(text)
            }),
            "minLength" => text.is_none_or(|text| text.chars().count() >= length(rule)),
            "maxLength" => text.is_none_or(|text| text.chars().count() <= length(rule)),
            "minimum" => value.as_f64().is_none_or(|value| value >= number(rule)),
            "maximum" => value.as_f64().is_none_or(|value| value <= number(rule)),
            keyword => panic!("{keyword} is not supported"),
        }
    }
}

fn has_type(name: &Json, value: &Json) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        name => panic!("{name} is not a type"),
    }
}

fn is_equal(one: &Json, other: &Json) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}
