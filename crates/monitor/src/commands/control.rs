//! Whether the machine runs.

use crate::command::*;
use crate::hmp;
use machine::RunState;

pub static COMMANDS: &[Command] = &[
    both("stop", &["stop", "s"], "stop the vCPUs", |context, _| {
        let machine = &context.target.machine;
        if machine.run_state() == RunState::Running {
            machine.stop(RunState::Paused);
        }
        done()
    }),
    both(
        "cont",
        &["cont", "c"],
        "let the vCPUs go on",
        |context, _| {
            context.target.machine.resume()?;
            done()
        },
    ),
    both(
        "quit",
        &["quit", "q"],
        "end the machine at once",
        |context, _| {
            context.target.machine.quit();
            done()
        },
    ),
    both(
        "system_reset",
        &["system_reset"],
        "reset the machine",
        |context, _| {
            context.target.machine.reset();
            done()
        },
    ),
    both(
        "system_powerdown",
        &["system_powerdown"],
        "press the power button: an ACPI guest shuts down",
        |context, _| {
            context.target.machine.press_power_button();
            done()
        },
    ),
    both(
        "inject-nmi",
        &["nmi"],
        "send an NMI to all vCPUs",
        |context, _| {
            let machine = &context.target.machine;
            for vcpu in machine.vcpus() {
                machine.on_vcpu(vcpu, |vcpu| vcpu.inject_nmi())??;
            }
            done()
        },
    ),
    program(
        "human-monitor-command",
        "do what people would write in one line",
        |context, arguments| {
            let line = need_text(arguments, "command-line")?;
            let vcpu = number_of(arguments, "cpu-index").unwrap_or(0);
            let mut vcpu = u32::try_from(vcpu)?;
            // The answers of people have lines as Unix has them.
            Ok(hmp::execute(context.target, &mut vcpu, line).into())
        },
    )
    .takes(&[
        need("command-line", Kind::Text),
        need("cpu-index", Kind::Number).optional(),
    ])
    .returns(Type::Text),
    people(
        &["help", "?"],
        "list the commands, or explain one",
        |_, arguments| Ok(help(text_of(arguments, "name")).into()),
    )
    .takes(&[need("name", Kind::Rest).optional()]),
    people(&["info"], "list what can be shown", |_, _| {
        Ok(list(|name| name.starts_with("info ")).into())
    }),
    people(
        &["log"],
        "log these items (as -d), or 'none'",
        |context, arguments| {
            let items = need_text(arguments, "items")?;
            context.target.maker.log(items)?;
            done()
        },
    )
    .takes(&[need("items", Kind::Text)]),
];

fn list(choose: impl Fn(&str) -> bool) -> String {
    let mut rows: Vec<(String, &str)> = super::all()
        .filter(|command| {
            let hmp = command.hmp.as_ref();
            hmp.is_some_and(|hmp| choose(hmp.names[0]))
        })
        .map(|command| (hmp::usage(command), command.help))
        .collect();
    rows.sort_unstable();
    rows.iter()
        .map(|(usage, help)| format!("{usage} -- {help}\n"))
        .collect()
}

fn help(name: Option<&str>) -> String {
    match name {
        None => list(|name| !name.starts_with("info ")) + "'info' lists what can be shown\n",
        Some(name) => match super::by_hmp_name(name.trim()) {
            Some(command) => format!("{} -- {}\n", hmp::usage(command), command.help),
            None => format!("unknown command: '{name}'\n"),
        },
    }
}
