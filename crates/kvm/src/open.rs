//! Opening the device: what has to be there, and what would help if it is not.

use crate::host::{Host, why_denied};
use hv::{Error, Result};
use kvm_ioctls::{Cap, Kvm};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The API version that every kernel since 2.6.22 has.
const API_VERSION: i32 = 12;

/// What the backend uses: the capability, its name, the first kernel with it
/// (Linux, Documentation/virt/kvm/api.rst).
const NEEDED: [(Cap, &str, &str); 11] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "2.6.25"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR", "2.6.25"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP", "2.6.25"),
    (Cap::MpState, "KVM_CAP_MP_STATE", "2.6.27"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING", "2.6.30"),
    (Cap::Pit2, "KVM_CAP_PIT2", "2.6.31"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS", "2.6.33"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS", "2.6.35"),
    (Cap::Xsave, "KVM_CAP_XSAVE", "2.6.36"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI", "3.5"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "4.13"),
];

/// Opens the device at `path`, which can make VMs then.
pub(crate) fn open(path: &Path) -> Result<Kvm> {
    let raw = CString::new(path.as_os_str().as_bytes());
    let raw = raw.map_err(|_| refused(path, "the path holds a zero byte"))?;
    let kvm = Kvm::new_with_path(raw).map_err(|e| why_not_open(path, e))?;
    check(kvm.get_api_version(), |cap| kvm.check_extension(cap)).map_err(|e| refused(path, &e))?;
    // Some of what is wrong shows only here.
    kvm.create_vm()
        .map_err(|e| refused(path, &why_no_vm(e.errno())))?;
    Ok(kvm)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::Unavailable(format!("{}: {why}", path.display()))
}

fn why_not_open(path: &Path, error: kvm_ioctls::Error) -> Error {
    let absent = |what| refused(path, &format!("{what}: {}", Host::this().why_absent()));
    match error.errno() {
        libc::ENOENT => absent("it does not exist"),
        // A node without a driver.
        libc::ENXIO | libc::ENODEV => absent("no driver answers"),
        libc::EACCES | libc::EPERM => Error::Denied(format!(
            "{}: this user may not open it: {}",
            path.display(),
            why_denied(path)
        )),
        errno => refused(path, &std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

/// An error if the kernel's side is not what the backend was written for.
fn check(version: i32, has: impl Fn(Cap) -> bool) -> std::result::Result<(), String> {
    if version < 0 {
        return Err("it is not the device of KVM, which answers KVM_GET_API_VERSION".into());
    }
    if version != API_VERSION {
        return Err(format!(
            "its API version is {version}; {API_VERSION} is needed, which Linux has since 2.6.22"
        ));
    }
    match NEEDED.iter().find(|(cap, _, _)| !has(*cap)) {
        Some((_, name, since)) => Err(format!(
            "this kernel's KVM lacks {name}; Linux {since} and later have it"
        )),
        None => Ok(()),
    }
}

fn why_no_vm(errno: i32) -> String {
    let said = std::io::Error::from_raw_os_error(errno);
    let hint = match errno {
        libc::EBUSY => ": another hypervisor uses the processor's virtualization; stop it first",
        libc::ENOMEM => ": the host has no memory left for it",
        libc::EMFILE | libc::ENFILE => ": too many open files ('ulimit -n')",
        _ => "",
    };
    format!("KVM_CREATE_VM: {said}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &str) -> String {
        open(Path::new(path)).map_or_else(|e| e.to_string(), |_| "open".into())
    }

    #[test]
    fn what_is_no_kvm_is_refused_by_name() {
        let absent = message("/nonexistent/kvm");
        assert!(
            absent.starts_with("/nonexistent/kvm: it does not exist: "),
            "{absent}"
        );
        let file = std::env::temp_dir().join(format!("trapeze-no-kvm-{}", std::process::id()));
        std::fs::write(&file, "a regular file").unwrap();
        let regular = message(&file.to_string_lossy());
        std::fs::remove_file(&file).unwrap();
        assert!(regular.contains("is not the device of KVM"), "{regular}");
        let other = message("/dev/null");
        assert!(other.contains("is not the device of KVM"), "{other}");
    }

    #[test]
    fn old_kernels_are_refused_by_name() {
        assert_eq!(check(12, |_| true), Ok(()));
        assert!(check(10, |_| true).unwrap_err().contains("version is 10"));
        for (cap, name, since) in NEEDED {
            let why = check(12, |c| c as u32 != cap as u32).unwrap_err();
            assert!(why.contains(name) && why.contains(since), "{why}");
        }
    }

    #[test]
    fn another_hypervisor_is_named() {
        assert!(why_no_vm(libc::EBUSY).contains("another hypervisor"));
    }
}
