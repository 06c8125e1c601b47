//! What a command is: one row of the table.

use crate::target::Target;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Names and values of arguments.
pub type Arguments = Map<String, Value>;

/// What a command comes back with.
pub type Answer = Result<Value, Failure>;

/// What a command can get at.
pub struct Context<'a> {
    /// The machine.
    pub target: &'a Arc<Target>,
    /// The vCPU that the session looks at.
    pub vcpu: u32,
}

/// One command.
pub struct Command {
    /// QMP's name; none if it is for people only.
    pub qmp: Option<&'static str>,
    /// How people call it and see what it returns.
    pub hmp: Option<Hmp>,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What it returns.
    pub returns: Type,
    /// One sentence.
    pub help: &'static str,
    /// Does it.
    pub run: fn(&mut Context<'_>, &Arguments) -> Answer,
}

/// A command for people.
pub struct Hmp {
    /// Its names; those that begin with "info " are listed by `info`.
    pub names: &'static [&'static str],
    /// What is shown of its answer.
    pub show: fn(&Value) -> String,
}

/// An argument.
pub struct Argument {
    /// QMP's name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// It can be left out.
    pub optional: bool,
    /// Who can give it.
    pub of: Of,
}

/// Whose argument it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Everybody's.
    Both,
    /// Only programs'.
    Qmp,
    /// Only people's.
    Hmp,
}

/// Kinds of arguments.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text.
    Text,
    /// A number; people may write an expression.
    Number,
    /// Bytes; people mean MiB unless they say otherwise.
    Size,
    /// On or off.
    Switch,
    /// One of these.
    Choice(&'static [&'static str]),
    /// `/FORMAT` of the commands that show memory.
    Format,
    /// All that is left of the line.
    Rest,
    /// A list of texts.
    Texts,
    /// The whole object, in QMP; for people `NAME[,KEY=VALUE...]`, where the
    /// name is the value of this key.
    Options(&'static str),
}

/// The type of a value, for the schema.
#[derive(Debug)]
pub enum Type {
    /// Anything.
    Any,
    /// `{}`.
    Nothing,
    /// A text.
    Text,
    /// A whole number.
    Int,
    /// A number.
    Number,
    /// True or false.
    Bool,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list.
    List(&'static Type),
    /// An object.
    Object(&'static [Member]),
}

/// A member of an object.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub of: Type,
    /// It may be absent.
    pub optional: bool,
}

/// A member that is always there.
pub const fn must(name: &'static str, of: Type) -> Member {
    let optional = false;
    Member { name, of, optional }
}

/// One that is not.
pub const fn may(name: &'static str, of: Type) -> Member {
    let optional = true;
    Member { name, of, optional }
}

/// An argument that is needed.
pub const fn need(name: &'static str, kind: Kind) -> Argument {
    Argument {
        name,
        kind,
        optional: false,
        of: Of::Both,
    }
}

impl Argument {
    /// The same, but it can be left out.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same for these only.
    pub const fn of(mut self, of: Of) -> Self {
        self.of = of;
        self
    }
}

/// A command for programs and people.
pub const fn both(
    qmp: &'static str,
    names: &'static [&'static str],
    help: &'static str,
    run: fn(&mut Context<'_>, &Arguments) -> Answer,
) -> Command {
    Command {
        qmp: Some(qmp),
        ..people(names, help, run)
    }
}

/// One for people only.
pub const fn people(
    names: &'static [&'static str],
    help: &'static str,
    run: fn(&mut Context<'_>, &Arguments) -> Answer,
) -> Command {
    Command {
        qmp: None,
        hmp: Some(Hmp { names, show: text }),
        arguments: &[],
        returns: Type::Nothing,
        help,
        run,
    }
}

/// One for programs only.
pub const fn program(
    qmp: &'static str,
    help: &'static str,
    run: fn(&mut Context<'_>, &Arguments) -> Answer,
) -> Command {
    Command {
        qmp: Some(qmp),
        hmp: None,
        arguments: &[],
        returns: Type::Nothing,
        help,
        run,
    }
}

impl Command {
    /// The same with these arguments.
    pub const fn takes(mut self, arguments: &'static [Argument]) -> Self {
        self.arguments = arguments;
        self
    }

    /// The same, but it returns this.
    pub const fn returns(mut self, of: Type) -> Self {
        self.returns = of;
        self
    }

    /// The same, but people see it so.
    pub const fn shown(mut self, show: fn(&Value) -> String) -> Self {
        if let Some(hmp) = &mut self.hmp {
            hmp.show = show;
        }
        self
    }
}

/// An answer that is a text, or nothing.
fn text(answer: &Value) -> String {
    answer.as_str().unwrap_or_default().into()
}

/// Nothing to say.
pub fn done() -> Answer {
    Ok(Value::Object(Map::new()))
}

/// QMP's error classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All but the others.
    GenericError,
    /// There is no such command, or not now.
    CommandNotFound,
    /// The device is there, but does nothing.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
}

impl Class {
    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub class: Class,
    /// For people.
    pub text: String,
}

impl Failure {
    /// Of a class.
    pub fn of(class: Class, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { class, text }
    }
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(Class::GenericError, error.to_string())
    }
}

/// A text among the arguments.
pub fn text_of<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a str> {
    arguments.get(name)?.as_str()
}

/// A text that is there, since the row says so.
pub fn need_text<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, Failure> {
    text_of(arguments, name).ok_or_else(|| missing(name))
}

/// A number among the arguments; negative ones are what they are in two's
/// complement.
pub fn number_of(arguments: &Arguments, name: &str) -> Option<u64> {
    let value = arguments.get(name)?;
    value.as_u64().or_else(|| Some(value.as_i64()? as u64))
}

/// A number that is there, since the row says so.
pub fn need_number(arguments: &Arguments, name: &str) -> Result<u64, Failure> {
    number_of(arguments, name).ok_or_else(|| missing(name))
}

pub fn missing(name: &str) -> Failure {
    Failure::of(
        Class::GenericError,
        format!("Parameter '{name}' is missing"),
    )
}

impl Command {
    /// Refuses arguments that the row does not have, or that are not what it
    /// says.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn check(&self, given: &Arguments) -> Result<(), Failure> {
        let rows = || self.arguments.iter().filter(|a| a.of != Of::Hmp);
        let options = rows().find_map(|row| match row.kind {
            Kind::Options(key) => Some(key),
            _ => None,
        });
        if let Some(key) = options {
            return match given.contains_key(key) {
                true => Ok(()),
                false => Err(missing(key)),
            };
        }
        for row in rows() {
            match given.get(row.name) {
                Some(value) => row.check(value)?,
                None if row.optional => {}
                None => return Err(missing(row.name)),
            }
        }
        match given.keys().find(|key| rows().all(|row| row.name != **key)) {
            Some(key) => Err(format!("Parameter '{key}' is unexpected").into()),
            None => Ok(()),
        }
    }
}

impl Argument {
    fn check(&self, value: &Value) -> Result<(), Failure> {
        let (fits, expected) = match self.kind {
            Kind::Text | Kind::Format | Kind::Rest => (value.is_string(), "string"),
            Kind::Number => (value.is_i64() || value.is_u64(), "integer"),
            Kind::Size => (value.is_u64(), "uint64"),
            Kind::Switch => (value.is_boolean(), "boolean"),
            Kind::Texts => {
                let all_texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
                (value.as_array().is_some_and(all_texts), "array")
            }
            Kind::Options(_) => (true, "object"),
            Kind::Choice(choices) => {
                let Some(text) = value.as_str() else {
                    return Err(self.expected("string"));
                };
                if !choices.contains(&text) {
                    return Err(format!(
                        "Parameter '{}' does not accept value '{text}'",
                        self.name
                    )
                    .into());
                }
                (true, "string")
            }
        };
        match fits {
            true => Ok(()),
            false => Err(self.expected(expected)),
        }
    }

    fn expected(&self, what: &str) -> Failure {
        let name = self.name;
        format!("Invalid parameter type for '{name}', expected: {what}").into()
    }
}
