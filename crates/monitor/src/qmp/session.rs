//! One client that speaks QMP.

use super::frame::{Frame, Framer};
use super::line;
use crate::command::{Answer, Arguments, Class, Context, Failure};
use crate::commands;
use crate::outbox::Outbox;
use crate::target::Target;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The session.
pub struct Session {
    target: Arc<Target>,
    outbox: Arc<Outbox>,
    framer: Framer,
    pretty: bool,
    /// The client has sent `qmp_capabilities`.
    negotiated: bool,
}

/// A request that makes sense.
struct Request {
    command: String,
    arguments: Arguments,
}

impl Session {
    /// Begins, with the greeting.
    pub fn new(target: Arc<Target>, outbox: Arc<Outbox>, pretty: bool) -> Self {
        let session = Self {
            target,
            outbox,
            framer: Framer::default(),
            pretty,
            negotiated: false,
        };
        let version = commands::version(&session.target);
        let greeting = json!({ "QMP": { "version": version, "capabilities": [] } });
        session.send(&greeting);
        session
    }

    fn send(&self, message: &Value) -> bool {
        self.outbox.send(line(message, self.pretty))
    }

    /// What was sent since the last time; for a session without a thread that
    /// does it.
    pub fn sent(&self) -> String {
        self.outbox.take()
    }

    /// Takes what the client sent; false when nobody hears the answers.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| match self.framer.take(byte) {
            None => true,
            Some(Frame::Value(text)) => self.serve(&text),
            Some(Frame::Junk(why)) => {
                let failure = Failure::from(format!("JSON parse error, {why}"));
                self.send(&failed(&failure))
            }
        })
    }

    fn serve(&mut self, text: &[u8]) -> bool {
        let (id, answer) = match serde_json::from_slice(text) {
            Err(error) => (None, Err(format!("JSON parse error, {error}").into())),
            Ok(Value::Object(mut message)) => {
                let id = message.remove("id");
                (id, self.answer(message))
            }
            Ok(_) => (None, Err("QMP input must be a JSON object".into())),
        };
        let mut message = match answer {
            Ok(value) => json!({ "return": value }),
            Err(failure) => failed(&failure),
        };
        if let (Some(id), Some(object)) = (id, message.as_object_mut()) {
            object.insert("id".into(), id);
        }
        self.send(&message)
    }

    fn answer(&mut self, message: Map<String, Value>) -> Answer {
        let request = request(message)?;
        match (&*request.command, self.negotiated) {
            ("qmp_capabilities", false) => self.negotiate(&request.arguments),
            ("qmp_capabilities", true) => Err(Failure::of(
                Class::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            )),
            (_, false) => Err(Failure::of(
                Class::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            )),
            (name, true) => {
                let command = commands::by_qmp_name(name).ok_or_else(|| {
                    let text = format!("The command {name} has not been found");
                    Failure::of(Class::CommandNotFound, text)
                })?;
                command.check(&request.arguments)?;
                let mut context = Context {
                    target: &self.target,
                    vcpu: 0,
                };
                (command.run)(&mut context, &request.arguments)
            }
        }
    }

    fn negotiate(&mut self, arguments: &Arguments) -> Answer {
        if let Some(key) = arguments.keys().find(|key| *key != "enable") {
            return Err(format!("Parameter '{key}' is unexpected").into());
        }
        let asked = arguments.get("enable").and_then(Value::as_array);
        if let Some(capability) = asked.and_then(|list| list.first()) {
            return Err(format!("Capability {capability} is not available").into());
        }
        self.negotiated = true;
        self.target.events.listen(&self.outbox, self.pretty);
        Ok(json!({}))
    }
}

fn failed(failure: &Failure) -> Value {
    json!({ "error": { "class": failure.class.name(), "desc": failure.text } })
}

fn request(mut message: Map<String, Value>) -> Result<Request, Failure> {
    let command = match message.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) => return Err("QMP input member 'execute' must be a string".into()),
        None if message.contains_key("exec-oob") => {
            return Err("out-of-band execution is not available; use 'execute'".into());
        }
        None => return Err("QMP input lacks member 'execute'".into()),
    };
    let arguments = match message.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err("QMP input member 'arguments' must be an object".into()),
        None => Arguments::new(),
    };
    match message.keys().next() {
        Some(key) => Err(format!("QMP input member '{key}' is unexpected").into()),
        None => Ok(Request { command, arguments }),
    }
}
