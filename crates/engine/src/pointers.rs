//! The x87 remembers where its last instruction and its operand were (FIP, FDP; SDM
//! vol 1, 8.1.8). What copies leave there are the host's addresses, which become the
//! guest's before anybody sees them.

use crate::ctx::Ctx;
use crate::slow::vector_state;
use crate::vcpu::SoftVcpu;
use crate::vm::SoftVm;
use std::ops::Range;
use std::sync::OnceLock;
use x86::cpu::XsaveArea;

const FIP: Range<usize> = 8..16;
const FDP: Range<usize> = 16..24;

/// An operand whose page may have left the TLB since.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operand {
    /// Its host address.
    host: u64,
    linear: u64,
}

fn read(area: &XsaveArea, field: Range<usize>) -> u64 {
    u64::from_le_bytes(area.0[field].try_into().unwrap_or_default())
}

/// The host sets FDP only when an unmasked x87 exception is raised
/// (FDP_EXCPTN_ONLY, CPUID.7.0:EBX[6]).
fn fdp_needs_an_error() -> bool {
    static NEEDS: OnceLock<bool> = OnceLock::new();
    *NEEDS.get_or_init(|| crate::cpuid::host(7, 0)[1] & 1 << 6 != 0)
}

/// FDP may be an address of the host's, if FIP is.
fn names_operand(area: &XsaveArea) -> bool {
    area.x87_error_pending() || !fdp_needs_an_error()
}

/// Called while generated code waits, before an access changes the TLB: notes whose
/// host address FDP is.
pub(crate) fn note_operand(ctx: &mut Ctx, vm: &SoftVm) {
    if ctx.jit.vec_loaded == 0 || !names_operand(vector_state(ctx)) {
        return;
    }
    let area = vector_state(ctx);
    let (fip, host) = (read(area, FIP), read(area, FDP));
    if vm.code.lock().range().contains(&fip)
        && let Some(linear) = ctx.tlb.linear_of(host)
    {
        ctx.slow.operand = Operand { host, linear };
    }
}

impl SoftVcpu {
    /// Called when generated code has been left.
    pub(crate) fn hide_host_addresses(&mut self) {
        let cache = self.enter_address;
        let size = self.vm.options.code_cache_bytes() as u64;
        let ctx = self.ctx_mut();
        let (fip, fdp) = (read(&ctx.cpu.xsave, FIP), read(&ctx.cpu.xsave, FDP));
        if fip.wrapping_sub(cache) >= size {
            return;
        }
        let site = self.vm.code.lock().copied_from(fip).unwrap_or_default();
        let ctx = self.ctx_mut();
        // On such hosts FDP is still the guest's unless an error set it.
        let set = ctx.cpu.xsave.x87_error_pending() && site.memory != 0;
        let fdp = match fdp_needs_an_error() && !set || fdp == 0 {
            true => fdp,
            false => {
                let noted = Some(ctx.slow.operand).filter(|o| o.host == fdp);
                let noted = noted.map(|o| o.linear);
                ctx.tlb.linear_of(fdp).or(noted).unwrap_or(0)
            }
        };
        let rip = site.rip;
        let area = &mut ctx.cpu.xsave.0;
        area[FIP].copy_from_slice(&rip.to_le_bytes());
        area[FDP].copy_from_slice(&fdp.to_le_bytes());
    }
}
