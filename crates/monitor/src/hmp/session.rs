//! One person at a terminal.

use super::editor::{Editor, Typed};
use super::parse;
use crate::command::{Context, Failure};
use crate::commands;
use crate::outbox::Outbox;
use crate::target::Target;
use std::sync::Arc;

/// The session.
pub struct Session {
    target: Arc<Target>,
    outbox: Arc<Outbox>,
    editor: Editor,
    vcpu: u32,
}

impl Session {
    /// Nobody is there yet.
    pub fn new(target: Arc<Target>, outbox: Arc<Outbox>) -> Self {
        Self {
            target,
            outbox,
            editor: Editor::new("(qemu) "),
            vcpu: 0,
        }
    }

    /// Somebody is: the first line.
    pub fn greet(&mut self) -> bool {
        let [major, minor, micro] = self.target.about.version;
        let mut text =
            format!("Trapeze {major}.{minor}.{micro} monitor - type 'help' for more information");
        text.push_str("\r\n");
        self.editor.show();
        text += &self.editor.take_output();
        self.outbox.send(text)
    }

    /// What was sent since the last time; for a session without a thread that
    /// does it.
    pub fn sent(&self) -> String {
        self.outbox.take()
    }

    /// Takes what was typed; false when nobody sees the answers.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            match self.editor.take(byte) {
                None => {}
                Some(Typed::Tab(text)) => self.complete(&text),
                Some(Typed::Line(line)) => {
                    let shown = self.editor.take_output();
                    let answer = match line.trim() {
                        "" => String::new(),
                        line => execute(&self.target, &mut self.vcpu, line),
                    };
                    if !self.outbox.send(shown + &answer.replace('\n', "\r\n")) {
                        return false;
                    }
                    self.editor.show();
                }
            }
        }
        let shown = self.editor.take_output();
        shown.is_empty() || self.outbox.send(shown)
    }

    /// Completes the name of a command, or lists those that begin so.
    fn complete(&mut self, text: &str) {
        let typed = text.trim_start();
        let names: Vec<&str> = commands::hmp_names()
            .filter(|name| name.starts_with(typed))
            .collect();
        let common = common_start(&names);
        for c in common.get(typed.len()..).unwrap_or_default().chars() {
            self.editor.insert(c);
        }
        match names.len() {
            0 => {}
            1 => self.editor.insert(' '),
            _ if common.len() == typed.len() => {
                let mut list = String::from("\r\n");
                for name in names {
                    list += name.strip_prefix("info ").unwrap_or(name);
                    list += "\r\n";
                }
                self.outbox.send(self.editor.take_output() + &list);
                self.editor.show();
            }
            _ => {}
        }
    }
}

fn common_start<'a>(names: &[&'a str]) -> &'a str {
    let Some((first, others)) = names.split_first() else {
        return "";
    };
    let same = |other: &&str| {
        let pairs = first.bytes().zip(other.bytes());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let end = others.iter().map(same).min().unwrap_or(first.len());
    first.get(..end).unwrap_or_default()
}

/// Does what a line says; the text is what people see of it.
pub fn execute(target: &Arc<Target>, vcpu: &mut u32, line: &str) -> String {
    let mut context = Context {
        target,
        vcpu: *vcpu,
    };
    let answer = run(&mut context, line);
    *vcpu = context.vcpu;
    match answer {
        Ok(text) if text.is_empty() || text.ends_with('\n') => text,
        Ok(text) => text + "\n",
        Err(failure) => format!("Error: {}\n", failure.text),
    }
}

fn run(context: &mut Context<'_>, line: &str) -> Result<String, Failure> {
    let (command, rest) = parse::command(line)?;
    let (target, vcpu) = (context.target, context.vcpu);
    let mut registers = |name: &str| commands::register(target, vcpu, name);
    let arguments = parse::arguments(command, rest, &mut registers)?;
    let answer = (command.run)(context, &arguments)?;
    Ok(match &command.hmp {
        Some(hmp) => (hmp.show)(&answer),
        None => String::new(),
    })
}
