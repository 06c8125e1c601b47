//! `query-qmp-schema`, from the table of commands.

use crate::command::{Argument, Command, Kind, Member, Of, Type};
use crate::{commands, events};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The schema: commands and events with their names, types numbered, as QEMU's.
pub fn schema() -> Value {
    let mut types = Types::default();
    let mut entities: Vec<Value> = commands::all()
        .filter_map(|command| Some((command.qmp?, command)))
        .map(|(name, command)| {
            json!({
                "name": name,
                "meta-type": "command",
                "arg-type": types.arguments(command),
                "ret-type": types.of(&command.returns),
            })
        })
        .collect();
    for (name, data) in events::ALL {
        let members = data.iter().map(|(name, data)| {
            let of = match data {
                events::Data::Text => types.builtin("str", "string"),
                events::Data::Bool => types.builtin("bool", "boolean"),
            };
            json!({ "name": name, "type": of })
        });
        let members = members.collect();
        let of = types.object(members);
        entities.push(json!({ "name": name, "meta-type": "event", "arg-type": of }));
    }
    entities.extend(types.entities);
    Value::Array(entities)
}

#[derive(Default)]
struct Types {
    entities: Vec<Value>,
    /// Names by what an entity says beside its name.
    known: BTreeMap<String, String>,
}

impl Types {
    /// The name of a type that is described so.
    fn add(&mut self, mut entity: Value) -> String {
        let text = entity.to_string();
        if let Some(name) = self.known.get(&text) {
            return name.clone();
        }
        let name = self.known.len().to_string();
        entity["name"] = name.clone().into();
        self.entities.push(entity);
        self.known.insert(text, name.clone());
        name
    }

    fn builtin(&mut self, name: &str, json_type: &str) -> String {
        if self.known.insert(name.into(), name.into()).is_none() {
            self.entities
                .push(json!({ "name": name, "meta-type": "builtin", "json-type": json_type }));
        }
        name.into()
    }

    fn object(&mut self, members: Vec<Value>) -> String {
        self.add(json!({ "meta-type": "object", "members": members }))
    }

    fn choice(&mut self, names: &[&str]) -> String {
        let members: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        self.add(json!({ "meta-type": "enum", "members": members, "values": names }))
    }

    fn list(&mut self, of: String) -> String {
        let name = format!("[{of}]");
        if self.known.insert(name.clone(), name.clone()).is_none() {
            let entity = json!({ "name": name, "meta-type": "array", "element-type": of });
            self.entities.push(entity);
        }
        name
    }

    fn of(&mut self, of: &Type) -> String {
        match of {
            Type::Any => self.builtin("any", "value"),
            Type::Nothing => self.object(Vec::new()),
            Type::Text => self.builtin("str", "string"),
            Type::Int => self.builtin("int", "int"),
            Type::Number => self.builtin("number", "number"),
            Type::Bool => self.builtin("bool", "boolean"),
            Type::Choice(names) => self.choice(names),
            Type::List(of) => {
                let of = self.of(of);
                self.list(of)
            }
            Type::Object(members) => {
                let members = members.iter().map(|member| self.member(member)).collect();
                self.object(members)
            }
        }
    }

    fn member(&mut self, member: &Member) -> Value {
        let of = self.of(&member.of);
        described(member.name, of, member.optional)
    }

    fn arguments(&mut self, command: &Command) -> String {
        let rows = command.arguments.iter().filter(|row| row.of != Of::Hmp);
        let members = rows.map(|row| self.argument(row)).collect();
        self.object(members)
    }

    fn argument(&mut self, row: &Argument) -> Value {
        let of = match row.kind {
            Kind::Text | Kind::Format | Kind::Rest => self.builtin("str", "string"),
            Kind::Number | Kind::Size => self.builtin("int", "int"),
            Kind::Switch => self.builtin("bool", "boolean"),
            Kind::Choice(names) => self.choice(names),
            Kind::Texts => {
                let of = self.builtin("str", "string");
                self.list(of)
            }
            // Its other members depend on what it names.
            Kind::Options(key) => {
                let of = self.builtin("str", "string");
                return described(key, of, row.optional);
            }
        };
        described(row.name, of, row.optional)
    }
}

/// As QEMU does, a member that may be absent has a default of null.
fn described(name: &str, of: String, optional: bool) -> Value {
    match optional {
        true => json!({ "name": name, "type": of, "default": null }),
        false => json!({ "name": name, "type": of }),
    }
}
