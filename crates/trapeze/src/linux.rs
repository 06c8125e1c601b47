//! The main job: Debian's kernel to a shell.

use crate::embedded;
use crate::system::{self, Options, Personality};
use guestimg::{Flavour, Mode, Progress};
use machine::{Image, PanicAction};
use std::io::IsTerminal;

/// Boots Linux, or the embedded guest where no package can be had. `arguments`
/// are options of `trapeze system`, laid over the defaults.
pub(crate) fn run(arguments: &[String]) -> u8 {
    match prepare() {
        Ok(options) => start(options, arguments),
        Err(why) => {
            eprintln!("trapeze: no Linux guest: {why}; starting the embedded guest");
            embedded::run(arguments)
        }
    }
}

/// Applies `arguments` over `options` and runs.
pub(crate) fn start(mut options: Options, arguments: &[String]) -> u8 {
    match options.parse(arguments) {
        Ok(()) => system::run(options),
        Err(why) => {
            eprintln!("trapeze: {why}");
            1
        }
    }
}

/// 1 GiB, one vCPU; a reset or a panic ends the machine.
pub(crate) fn defaults() -> Options {
    let mut options = Options::new(Personality::Trapeze);
    options.config.ram_bytes = 1 << 30;
    options.config.no_reboot = true;
    options.config.panic_action = PanicAction::ExitFailure;
    options
}

fn prepare() -> Result<Options, guestimg::Error> {
    let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
    let initramfs = guestimg::initramfs(&image)?;
    let term = std::env::var("TERM").ok();
    let mut options = defaults();
    options.config.kernel = Some(Image::at(image.kernel));
    options.config.initrd = Some(Image::at(initramfs));
    options.config.cmdline = guestimg::command_line(Mode::Shell, term.as_deref(), terminal_size());
    if std::io::stderr().is_terminal() {
        let packages = image.versions.trim_end().replace('\n', ", ");
        eprintln!("trapeze: booting {packages}; Ctrl-A X quits");
    }
    Ok(options)
}

/// Rows and columns of the terminal, if there is one.
#[allow(
    unsafe_code,
    reason = "TIOCGWINSZ has no safe wrapper among our dependencies"
)]
fn terminal_size() -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` through the pointer, which is
    // to a live local of that type.
    let answer = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &mut size) };
    (answer == 0).then_some((size.ws_row, size.ws_col))
}

/// `trapeze fetch`: fills the cache and says where things are.
pub(crate) fn fetch(arguments: &[String]) -> u8 {
    let mut refresh = false;
    let mut flavour = Flavour::Cloud;
    for word in arguments {
        match (word.as_str(), Flavour::from_name(word)) {
            ("--refresh", _) => refresh = true,
            (_, Some(f)) => flavour = f,
            _ => {
                let names = Flavour::ALL.map(Flavour::name).join(", ");
                eprintln!("trapeze: '{word}' is no kernel; there are {names}");
                return 1;
            }
        }
    }
    let mut progress = Progress::stderr();
    let fetched = guestimg::fetch(flavour, refresh, &mut progress)
        .and_then(|image| Ok((guestimg::initramfs(&image)?, image)));
    progress.finish();
    match fetched {
        Ok((initramfs, image)) => {
            print!("{}", image.versions);
            println!("kernel    {}", image.kernel.display());
            println!("initramfs {}", initramfs.display());
            0
        }
        Err(why) => {
            eprintln!("trapeze: {why}");
            1
        }
    }
}
