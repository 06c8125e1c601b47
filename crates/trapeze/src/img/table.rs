//! The commands and their options, one row each. Parser, help and
//! `docs/img.md` come from these tables.

use super::Tool;
use super::getopt::Parsed;

/// What a command ends with: its exit code, or an error in words.
pub(super) type Outcome = Result<u8, String>;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What it does.
    pub(super) help: &'static str,
    /// What follows its options.
    pub(super) operands: &'static str,
    pub(super) options: &'static [Row],
    /// Exit code after an error.
    pub(super) failure: u8,
    pub(super) run: fn(&Tool, &Parsed) -> Outcome,
}

/// An option.
pub(super) struct Row {
    /// One letter; a space if there is none.
    pub(super) short: char,
    pub(super) long: &'static str,
    /// What follows it; empty if nothing does.
    pub(super) value: &'static str,
    /// What it does; empty if it is known and refused by name.
    pub(super) help: &'static str,
}

const fn row(short: char, long: &'static str, value: &'static str, help: &'static str) -> Row {
    Row {
        short,
        long,
        value,
        help,
    }
}

/// QEMU has it, we do not.
const fn refused(short: char, long: &'static str, value: &'static str) -> Row {
    row(short, long, value, "")
}

const HELP: Row = row('h', "help", "", "print this help");
const QUIET: Row = row('q', "quiet", "", "print errors only");
const PROGRESS: Row = row('p', "progress", "", "show how far it is");
const FORMAT: Row = row(
    'f',
    "format",
    "FORMAT",
    "the image's format; guessed if not given",
);
const SHARE: Row = row(
    'U',
    "force-share",
    "",
    "take no locks: others may be writing",
);
const OUTPUT: Row = row(' ', "output", "human|json", "for whom the output is");
const CACHE: Row = row('t', "cache", "MODE", "cache mode of the image");
const OBJECT: Row = refused(' ', "object", "OBJECT");
const IMAGE_OPTS: Row = refused(' ', "image-opts", "");

/// Every command.
#[rustfmt::skip]
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "check",
        help: "check an image for contradictions, and repair it",
        operands: "FILE",
        options: &[
            HELP, QUIET, FORMAT, IMAGE_OPTS, SHARE, OUTPUT, OBJECT,
            row('T', "cache", "MODE", "cache mode of the image"),
            row('r', "repair", "leaks|all", "repair leaks only, or everything that can be"),
        ],
        failure: 1,
        run: super::check::run,
    },
    Command {
        name: "commit",
        help: "write an image's changes into its backing file",
        operands: "FILE",
        options: &[
            HELP, QUIET, PROGRESS, FORMAT, IMAGE_OPTS, CACHE, OBJECT,
            row('d', "drop", "", "leave the image as it is afterwards, do not empty it"),
            row('b', "base", "FILE", "write into this file of the backing chain (and leave the image)"),
            refused('r', "rate-limit", "RATE"),
        ],
        failure: 1,
        run: super::commit::run,
    },
    Command {
        name: "compare",
        help: "compare the contents of two images",
        operands: "FILE1 FILE2",
        options: &[
            HELP, QUIET, PROGRESS, IMAGE_OPTS, SHARE, OBJECT,
            row('f', "a-format", "FORMAT", "format of the first image"),
            row('F', "b-format", "FORMAT", "format of the second image"),
            row('s', "strict", "", "sizes and allocation must be the same too"),
            row('T', "cache", "MODE", "cache mode of both images"),
        ],
        failure: 2,
        run: super::compare::run,
    },
    Command {
        name: "convert",
        help: "copy one or more images into a new one",
        operands: "FILE... TARGET",
        options: &[
            HELP, QUIET, PROGRESS, SHARE, OBJECT,
            row('f', "source-format", "FORMAT", "the sources' format; guessed if not given"),
            row('O', "target-format", "FORMAT", "the target's format (raw)"),
            row('o', "target-options", "NAME=VALUE[,...]", "options of the target's format; 'help' lists them"),
            row('c', "compress", "", "write compressed clusters (qcow2)"),
            row('B', "backing", "FILE", "the target's backing file"),
            row('F', "backing-format", "FORMAT", "the backing file's format"),
            row('n', "no-create", "", "write into an image that exists"),
            row('l', "source-snapshot", "NAME", "read this internal snapshot; snapshot.id= and snapshot.name= before it say which it is"),
            row('S', "sparse-size", "SIZE", "zeros of this length become holes (4k); 0: none do"),
            row('T', "source-cache", "MODE", "cache mode of the sources (writeback)"),
            row('t', "target-cache", "MODE", "cache mode of the target (unsafe)"),
            row('m', "parallel", "N", "accepted; there is one worker"),
            row('W', "oob-writes", "", "accepted; writes are in order"),
            row(' ', "target-is-zero", "", "with -n: the target reads as zeros"),
            refused(' ', "source-image-opts", ""), refused(' ', "target-image-opts", ""),
            refused(' ', "bitmaps", ""), refused(' ', "skip-broken-bitmaps", ""),
            refused('r', "rate-limit", "RATE"), refused('C', "copy-range-offloading", ""),
            refused(' ', "salvage", ""),
        ],
        failure: 1,
        run: super::convert::run,
    },
    Command {
        name: "create",
        help: "make a new image",
        operands: "FILE [SIZE]",
        options: &[
            HELP, QUIET, OBJECT,
            row('f', "format", "FORMAT", "the image's format (raw)"),
            row('o', "options", "NAME=VALUE[,...]", "options of the format; 'help' lists them"),
            row('b', "backing", "FILE", "the backing file"),
            row('F', "backing-format", "FORMAT", "the backing file's format"),
            row('u', "backing-unsafe", "", "do not open the backing file"),
        ],
        failure: 1,
        run: super::create::run,
    },
    Command {
        name: "info",
        help: "say what an image is",
        operands: "FILE",
        options: &[
            HELP, FORMAT, IMAGE_OPTS, SHARE, OUTPUT, OBJECT,
            row('b', "backing-chain", "", "and its backing files"),
        ],
        failure: 1,
        run: super::info::run,
    },
    Command {
        name: "map",
        help: "say where an image's contents are",
        operands: "FILE",
        options: &[
            HELP, FORMAT, IMAGE_OPTS, SHARE, OUTPUT, OBJECT,
            row('s', "start-offset", "OFFSET", "from here on"),
            row('l', "max-length", "LENGTH", "so far"),
        ],
        failure: 1,
        run: super::map::run,
    },
    Command {
        name: "rebase",
        help: "give an image another backing file",
        operands: "FILE",
        options: &[
            HELP, QUIET, PROGRESS, FORMAT, IMAGE_OPTS, SHARE, CACHE, OBJECT,
            row('b', "backing", "FILE", "the new backing file; empty for none"),
            row('F', "backing-format", "FORMAT", "its format"),
            row('T', "backing-cache", "MODE", "its cache mode"),
            row('u', "backing-unsafe", "", "only write the name: the contents are the user's affair"),
            row('c', "compress", "", "write compressed clusters"),
        ],
        failure: 1,
        run: super::rebase::run,
    },
    Command {
        name: "resize",
        help: "change the size of an image's disk",
        operands: "FILE [+-]SIZE",
        options: &[
            HELP, QUIET, FORMAT, IMAGE_OPTS, OBJECT,
            row(' ', "shrink", "", "allow the disk to become smaller"),
            row(' ', "preallocation", "MODE", "space for what is added: off, metadata, falloc or full"),
        ],
        failure: 1,
        run: super::resize::run,
    },
    Command {
        name: "snapshot",
        help: "list, take, restore or remove internal snapshots",
        operands: "FILE",
        options: &[
            HELP, QUIET, FORMAT, IMAGE_OPTS, SHARE, OBJECT,
            row('l', "list", "", "list them (the default)"),
            row('c', "create", "NAME", "take one"),
            row('a', "apply", "NAME", "make the disk what it was then"),
            row('d', "delete", "NAME", "remove one"),
        ],
        failure: 1,
        run: super::snapshot::run,
    },
];

/// Commands of QEMU's that we do not have.
pub(super) const REFUSED: [&str; 5] = ["amend", "bench", "bitmap", "dd", "measure"];
