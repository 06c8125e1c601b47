//! The translator against the host CPU: the same blocks on every run.

use super::{Guest, Privilege, check, random};
use crate::features::HostFeatures;
use crate::metal::Metal;

fn blocks_agree(privilege: Privilege, translate: bool, seeds: std::ops::Range<u64>) {
    let features = HostFeatures::read().unwrap();
    let mut blocks = random::Blocks::new(|c| features.offered(c));
    let options = engine::Options {
        translate,
        ..Default::default()
    };
    let mut guest = Guest::new(&engine::Soft::with_options(options)).unwrap();
    guest.privilege = privilege;
    let mut metal = Metal::new().unwrap();
    for seed in seeds {
        guest.cold = seed % 4 == 0;
        guest.twice = seed % 2 == 0;
        let block = blocks.make(seed);
        let found = check::compare(&block, &mut metal, &mut guest);
        assert!(
            found.is_empty(),
            "seed {seed}: {found:#?}\n{}",
            block.listing()
        );
    }
}

#[test]
fn translated_user_code_agrees_with_the_host_cpu() {
    blocks_agree(Privilege::User, true, 0..3000);
}

#[test]
fn translated_kernel_code_agrees_with_the_host_cpu() {
    blocks_agree(Privilege::Kernel, true, 3000..5000);
}

#[test]
fn interpreted_blocks_agree_with_the_host_cpu() {
    blocks_agree(Privilege::User, false, 0..1000);
}
