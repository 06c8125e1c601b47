//! Images written by us are read and checked by QEMU's tools, and images
//! written by them are read and checked by us.

mod support;

use disk::qcow2::{self, CreateOptions, Qcow2, Qcow2Options, Repair};
use disk::{
    Access, BlockDevice, HostFile, HostFileOptions, Image, ImageOptions, Preallocation, Storage,
};
use std::path::Path;
use std::sync::Arc;
use support::model::{self, Model};
use support::qemu::{self, Scratch};
use support::random::Random;

fn host_file(path: &Path, create: bool, writable: bool) -> Arc<HostFile> {
    let options = HostFileOptions {
        writable,
        direct: false,
        ignore_flush: true,
        access: Access::Unlocked,
        create,
    };
    Arc::new(HostFile::open(path, &options).unwrap_or_else(|e| panic!("{e}")))
}

fn random_options(random: &mut Random) -> CreateOptions {
    let version = if random.chance(5) { 2 } else { 3 };
    let cluster_size = 1 << (9 + random.below(13));
    let size = (1 + random.below(8 << 20)).next_multiple_of(512);
    CreateOptions {
        size,
        version,
        cluster_size,
        refcount_bits: match version {
            2 => 16,
            _ => 1 << random.below(7),
        },
        lazy_refcounts: version == 3 && random.chance(4),
        preallocation: random.pick(&[
            Preallocation::Off,
            Preallocation::Off,
            Preallocation::Off,
            Preallocation::Metadata,
            Preallocation::Falloc,
        ]),
        backing: None,
    }
}

/// Both checkers find nothing at all.
fn both_clean(path: &Path, what: &str) {
    let (corruptions, leaks, text) = qemu::check(path);
    assert_eq!((corruptions, leaks), (0, 0), "{what}: qemu-img: {text}");
    let file: Arc<dyn Storage> = host_file(path, false, false);
    let options = Qcow2Options {
        read_only: true,
        checking: true,
        ..Qcow2Options::default()
    };
    let image = Qcow2::open(file, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut text = String::new();
    let report = image.check(Repair::None, &mut |line| text += line);
    let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {text}");
}

fn as_qemu_reads(path: &Path, scratch: &Scratch) -> Vec<u8> {
    let raw = scratch.path("as-qemu-reads");
    let (from, to) = (path.to_str().expect("ASCII"), raw.to_str().expect("ASCII"));
    qemu::must(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", from, to],
    );
    std::fs::read(raw).expect("just written")
}

#[test]
fn what_we_write_qemu_reads() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let path = scratch.path("image.qcow2");
        let options = random_options(&mut random);
        let what = format!("seed {seed} {options:?}");
        let created = qcow2::create(host_file(&path, true, true), &options);
        created.unwrap_or_else(|e| panic!("{what}: {e}"));
        both_clean(&path, &format!("{what}: new"));
        let mut model = Model::new(vec![0; options.size as usize]);
        for _ in 0..2 {
            let image = Qcow2::open(host_file(&path, false, true), Qcow2Options::default());
            let image = image.unwrap_or_else(|e| panic!("{what}: {e}"));
            write_some_compressed(&image, &mut random, &mut model);
            for _ in 0..40 {
                let step = model::step(&mut random, options.size, options.cluster_size);
                model::perform(&image, step).unwrap_or_else(|e| panic!("{what}: {step:?}: {e}"));
                model.apply(step);
            }
            assert_eq!(model.difference(&model::contents(&image)), None, "{what}");
            image.close().unwrap_or_else(|e| panic!("{what}: {e}"));
            drop(image);
            both_clean(&path, &what);
            assert_eq!(
                model.difference(&as_qemu_reads(&path, &scratch)),
                None,
                "{what}"
            );
        }
    }
}

/// Compressed clusters where there is nothing yet.
fn write_some_compressed(image: &Qcow2, random: &mut Random, model: &mut Model) {
    let (size, cluster) = (image.len(), u64::from(image.block_sizes().discard));
    for _ in 0..random.below(12) {
        let offset = random.below(size) / cluster * cluster;
        let len = cluster.min(size - offset);
        let fill = random.next() as u8;
        let bytes: Vec<u8> = (offset..offset + len)
            .map(|i| model::pattern(fill, i))
            .collect();
        let written = image.write_compressed(&bytes, offset);
        written.unwrap_or_else(|e| panic!("{offset:#x}: {e}"));
        model.apply(model::Step::Write { offset, len, fill });
    }
}

/// An image made by QEMU's tools: with a backing file, compressed clusters,
/// snapshots and what else there is.
fn qemu_image(random: &mut Random, scratch: &Scratch) -> CreateOptions {
    let text = |name: &str| scratch.path(name).display().to_string();
    let (image, base) = (text("image.qcow2"), text("base.raw"));
    let options = random_options(random);
    let size = options.size;
    let mut arguments = vec![
        "create".to_string(),
        "-q".into(),
        "-f".into(),
        "qcow2".into(),
    ];
    let backed = random.chance(2) && options.preallocation == Preallocation::Off;
    if backed {
        let base_len = (1 + random.below(2 * size)).next_multiple_of(512);
        let content: Vec<u8> = (0..base_len).map(|i| model::pattern(0x5a, i)).collect();
        std::fs::write(&base, content).expect("the scratch directory is writable");
        arguments.extend(["-b", &base, "-F", "raw"].map(String::from));
    }
    let o = format!(
        "compat={},cluster_size={},refcount_bits={},lazy_refcounts={},preallocation={}",
        if options.version == 2 { "v2" } else { "v3" },
        options.cluster_size,
        options.refcount_bits,
        if options.lazy_refcounts { "on" } else { "off" },
        match options.preallocation {
            Preallocation::Metadata => "metadata",
            Preallocation::Falloc => "falloc",
            _ => "off",
        }
    );
    arguments.extend(["-o".into(), o, image.clone(), size.to_string()]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    qemu::must("qemu-img", &words);
    for _ in 0..2 {
        qemu_writes(random, &image, &options);
        // Narrow refcounts cannot count a snapshot of packed clusters.
        if options.refcount_bits >= 8 && random.chance(2) {
            let name = random.next().to_string();
            qemu::must("qemu-img", &["snapshot", "-q", "-c", &name, &image]);
        }
    }
    options
}

fn qemu_writes(random: &mut Random, image: &str, options: &CreateOptions) {
    let mut commands = Vec::new();
    for _ in 0..20 {
        let (offset, len) = random.range(options.size, options.cluster_size, 1 << 18);
        let fill = random.next() as u8;
        commands.push(match random.below(8) {
            0 => format!("write -z {offset} {len}"),
            1 => format!("write -z -u {offset} {len}"),
            2 => {
                let cluster = options.cluster_size;
                let start = offset / cluster * cluster;
                format!(
                    "write -c -P {fill} {start} {}",
                    cluster.min(options.size - start)
                )
            }
            _ => format!("write -P {fill} {offset} {len}"),
        });
    }
    let mut words = vec!["-f", "qcow2"];
    for command in &commands {
        words.extend(["-c", command]);
    }
    words.push(image);
    // It fails where a compressed cluster would be written a second time; the
    // other commands are carried out.
    qemu::run("qemu-io", &words);
}

#[test]
fn what_qemu_writes_we_read_and_change() {
    for seed in 1000..1030 {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let options = qemu_image(&mut random, &scratch);
        let path = scratch.path("image.qcow2");
        let mut model = Model::new(as_qemu_reads(&path, &scratch));
        let what = format!("seed {seed} {options:?}");
        let name = path.to_str().expect("ASCII");
        let image = Image::open(name, &ImageOptions::write());
        let image = image.unwrap_or_else(|e| panic!("{what}: {e}"));
        let disk = image.device();
        assert_eq!(model.difference(&model::contents(&*disk)), None, "{what}");
        for _ in 0..30 {
            let step = model::step(&mut random, options.size, options.cluster_size);
            model::perform(&*disk, step).unwrap_or_else(|e| panic!("{what}: {step:?}: {e}"));
            model.apply(step);
        }
        assert_eq!(model.difference(&model::contents(&*disk)), None, "{what}");
        drop((disk, image));
        both_clean(&path, &what);
        assert_eq!(
            model.difference(&as_qemu_reads(&path, &scratch)),
            None,
            "{what}"
        );
    }
}
