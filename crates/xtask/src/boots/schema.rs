//! What `query-qmp-schema` says is what commands return.

use super::monitor::Qmp;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Types and commands by name.
struct Schema(BTreeMap<String, Value>);

/// Runs every command that only asks, and compares its answer with the schema.
pub(super) fn check(qmp: &mut Qmp) -> Result<()> {
    let entities = qmp.run("query-qmp-schema", json!({}))?;
    let entities = entities.as_array().context("the schema is a list")?;
    let name = |entity: &Value| entity["name"].as_str().unwrap_or_default().to_string();
    let schema = Schema(entities.iter().map(|e| (name(e), e.clone())).collect());
    let commands = qmp.run("query-commands", json!({}))?;
    let names = commands.as_array().context("a list")?.iter().map(name);
    let mut asked = 0;
    for command in names {
        let row = schema.0.get(&command);
        let row = row.with_context(|| format!("{command} is not in the schema"))?;
        ensure!(row["meta-type"] == "command", "{row}");
        if command.starts_with("query-") {
            let answer = qmp.run(&command, json!({}))?;
            let checked = schema.check(&answer, &row["ret-type"]);
            checked.with_context(|| format!("{command}: {answer}"))?;
            asked += 1;
        }
    }
    ensure!(asked > 10, "only {asked} commands ask");
    Ok(())
}

impl Schema {
    fn check(&self, value: &Value, of: &Value) -> Result<()> {
        let name = of.as_str().context("a type has a name")?;
        let of = self.0.get(name);
        let of = of.with_context(|| format!("there is no type {name}"))?;
        match of["meta-type"].as_str() {
            Some("builtin") => check_builtin(value, &of["json-type"]),
            Some("enum") => {
                let known = of["values"].as_array().context("values")?;
                ensure!(known.contains(value), "{value} is none of {known:?}");
                Ok(())
            }
            Some("array") => {
                let items = value.as_array().context("a list")?;
                let check = |item| self.check(item, &of["element-type"]);
                items.iter().try_for_each(check)
            }
            Some("object") => self.check_object(value, of),
            other => bail!("{name} is of the kind {other:?}"),
        }
    }

    fn check_object(&self, value: &Value, of: &Value) -> Result<()> {
        let object = value.as_object().context("an object")?;
        let members = of["members"].as_array().context("members")?;
        for member in members {
            let name = member["name"].as_str().unwrap_or_default();
            match object.get(name) {
                Some(value) => self
                    .check(value, &member["type"])
                    .context(name.to_string())?,
                None => ensure!(member.get("default").is_some(), "{name} is absent"),
            }
        }
        for name in object.keys() {
            let known = members.iter().any(|member| member["name"] == **name);
            ensure!(known, "{name} is not in the schema");
        }
        Ok(())
    }
}

fn check_builtin(value: &Value, of: &Value) -> Result<()> {
    let fits = match of.as_str() {
        Some("string") => value.is_string(),
        Some("int") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("value") => true,
        _ => false,
    };
    ensure!(fits, "{value} is no {of}");
    Ok(())
}
