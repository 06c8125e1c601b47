//! The lists behind the table: mnemonics, the codes that share a mnemonic with
//! something else, and CPUID features by fate.

use super::{Class, Int, Unit, Why};
use iced_x86::{Code, CpuidFeature as F, Mnemonic as M};

/// Rows by mnemonic. The first row that names a mnemonic wins.
#[rustfmt::skip]
const ROWS: &[(Class, &[M])] = &[
    (Class::Int(Int::Binary), &[
        M::Add, M::Or, M::Adc, M::Sbb, M::And, M::Sub, M::Xor, M::Cmp, M::Test,
    ]),
    (Class::Int(Int::Unary), &[
        M::Inc, M::Dec, M::Not, M::Neg,
    ]),
    (Class::Int(Int::Adx), &[
        M::Adcx, M::Adox,
    ]),
    (Class::Int(Int::MulDiv), &[
        M::Mul, M::Imul, M::Div, M::Idiv, M::Mulx,
    ]),
    (Class::Int(Int::Shift), &[
        M::Rol, M::Ror, M::Rcl, M::Rcr, M::Shl, M::Shr, M::Sal, M::Sar, M::Shld,
        M::Shrd, M::Rorx, M::Sarx, M::Shlx, M::Shrx,
    ]),
    (Class::Int(Int::BitTest), &[
        M::Bt, M::Bts, M::Btr, M::Btc,
    ]),
    (Class::Int(Int::BitScan), &[
        M::Bsf, M::Bsr, M::Lzcnt, M::Tzcnt, M::Popcnt,
    ]),
    (Class::Int(Int::Bmi), &[
        M::Andn, M::Bextr, M::Blsi, M::Blsmsk, M::Blsr, M::Bzhi, M::Pdep, M::Pext,
    ]),
    (Class::Int(Int::Crc32), &[
        M::Crc32,
    ]),
    (Class::Int(Int::Mov), &[
        M::Mov, M::Movzx,
    ]),
    (Class::Int(Int::Movsx), &[
        M::Movsx, M::Movsxd,
    ]),
    (Class::Int(Int::Lea), &[
        M::Lea,
    ]),
    (Class::Int(Int::Setcc), &[
        M::Seto, M::Setno, M::Setb, M::Setae, M::Sete, M::Setne, M::Setbe, M::Seta,
        M::Sets, M::Setns, M::Setp, M::Setnp, M::Setl, M::Setge, M::Setle, M::Setg,
    ]),
    (Class::Int(Int::Cmov), &[
        M::Cmovo, M::Cmovno, M::Cmovb, M::Cmovae, M::Cmove, M::Cmovne, M::Cmovbe,
        M::Cmova, M::Cmovs, M::Cmovns, M::Cmovp, M::Cmovnp, M::Cmovl, M::Cmovge,
        M::Cmovle, M::Cmovg,
    ]),
    (Class::Int(Int::Movbe), &[
        M::Movbe,
    ]),
    (Class::Int(Int::Movnti), &[
        M::Movnti,
    ]),
    (Class::Int(Int::Bswap), &[
        M::Bswap,
    ]),
    (Class::Int(Int::Convert), &[
        M::Cbw, M::Cwde, M::Cdqe, M::Cwd, M::Cdq, M::Cqo,
    ]),
    (Class::Int(Int::Xchg), &[
        M::Xchg,
    ]),
    (Class::Int(Int::Xadd), &[
        M::Xadd,
    ]),
    (Class::Int(Int::Cmpxchg), &[
        M::Cmpxchg,
    ]),
    (Class::Int(Int::CmpxchgPair), &[
        M::Cmpxchg8b, M::Cmpxchg16b,
    ]),
    (Class::Int(Int::Xlat), &[
        M::Xlatb,
    ]),
    (Class::Int(Int::Bound), &[
        M::Bound,
    ]),
    (Class::Int(Int::Bcd), &[
        M::Daa, M::Das, M::Aaa, M::Aas, M::Aam, M::Aad,
    ]),
    (Class::Int(Int::Stack), &[
        M::Push, M::Pop, M::Pusha, M::Pushad, M::Popa, M::Popad, M::Enter, M::Leave,
    ]),
    (Class::Int(Int::FlagsByte), &[
        M::Lahf, M::Sahf,
    ]),
    (Class::Int(Int::Flag), &[
        M::Clc, M::Stc, M::Cmc, M::Cld, M::Std, M::Salc,
    ]),
    // Hints; the CET, MPX and CLDEMOTE opcodes lie in the reserved-NOP space and do
    // nothing on a processor without them (SDM vol 2, NOP).
    (Class::Int(Int::Nop), &[
        M::Nop, M::Reservednop, M::Pause, M::Endbr32, M::Endbr64, M::Prefetchnta,
        M::Prefetcht0, M::Prefetcht1, M::Prefetcht2, M::Prefetch, M::Prefetchw,
        M::Prefetchwt1, M::Prefetchit0, M::Prefetchit1, M::Cldemote, M::Rdsspd,
        M::Rdsspq, M::Bndmk, M::Bndmov, M::Bndcl, M::Bndcu, M::Bndcn, M::Bndldx,
        M::Bndstx,
    ]),
    (Class::Int(Int::Fence), &[
        M::Lfence, M::Mfence, M::Sfence,
    ]),
    (Class::Int(Int::FlushLine), &[
        M::Clflush, M::Clflushopt, M::Clwb,
    ]),
    (Class::Int(Int::Random), &[
        M::Rdrand, M::Rdseed,
    ]),
    (Class::Branch, &[
        M::Jmp, M::Call, M::Ret, M::Jo, M::Jno, M::Jb, M::Jae, M::Je, M::Jne,
        M::Jbe, M::Ja, M::Js, M::Jns, M::Jp, M::Jnp, M::Jl, M::Jge, M::Jle, M::Jg,
        M::Loop, M::Loope, M::Loopne, M::Jcxz, M::Jecxz, M::Jrcxz,
    ]),
    (Class::String, &[
        M::Movsb, M::Movsw, M::Movsd, M::Movsq, M::Cmpsb, M::Cmpsw, M::Cmpsd,
        M::Cmpsq, M::Scasb, M::Scasw, M::Scasd, M::Scasq, M::Lodsb, M::Lodsw,
        M::Lodsd, M::Lodsq, M::Stosb, M::Stosw, M::Stosd, M::Stosq,
    ]),
    (Class::Native(Unit::Wait), &[
        M::Wait,
    ]),
    (Class::System, &[
        M::Pushf, M::Pushfd, M::Pushfq, M::Popf, M::Popfd, M::Popfq, M::Iret,
        M::Iretd, M::Iretq, M::Retf, M::Int, M::Int1, M::Int3, M::Into, M::Syscall,
        M::Sysret, M::Sysretq, M::Sysenter, M::Sysexit, M::Sysexitq, M::Hlt, M::Cli,
        M::Sti, M::In, M::Out, M::Insb, M::Insw, M::Insd, M::Outsb, M::Outsw,
        M::Outsd, M::Lgdt, M::Lidt, M::Sgdt, M::Sidt, M::Lldt, M::Ltr, M::Sldt,
        M::Str, M::Lmsw, M::Smsw, M::Clts, M::Invd, M::Wbinvd, M::Wbnoinvd,
        M::Invlpg, M::Invpcid, M::Lar, M::Lsl, M::Verr, M::Verw, M::Arpl, M::Les,
        M::Lds, M::Lss, M::Lfs, M::Lgs, M::Rdmsr, M::Wrmsr, M::Rdtsc, M::Rdtscp,
        M::Rdpmc, M::Rdpid, M::Cpuid, M::Swapgs, M::Rdfsbase, M::Rdgsbase,
        M::Wrfsbase, M::Wrgsbase, M::Xgetbv, M::Xsetbv, M::Xsave, M::Xsave64,
        M::Xsaveopt, M::Xsaveopt64, M::Xsavec, M::Xsavec64, M::Xsaves, M::Xsaves64,
        M::Xrstor, M::Xrstor64, M::Xrstors, M::Xrstors64, M::Fxsave, M::Fxsave64,
        M::Fxrstor, M::Fxrstor64, M::Fldenv, M::Fnstenv, M::Fnsave, M::Frstor,
        M::Clac, M::Stac, M::Monitor, M::Mwait, M::Vmcall, M::Vmmcall, M::Ud0,
        M::Ud1, M::Ud2, M::Serialize,
    ]),
    (Class::Excluded(Why::NotAnInstruction), &[
        M::INVALID, M::Db, M::Dw, M::Dd, M::Dq, M::Zero_bytes,
    ]),
    (Class::Excluded(Why::WaitForm), &[
        M::Fstenv, M::Fstcw, M::Feni, M::Fdisi, M::Fclex, M::Finit, M::Fsetpm,
        M::Fsave, M::Fstsw, M::Fstdw, M::Fstsg,
    ]),
    (Class::Excluded(Why::Virtualization), &[
        M::Vmxon, M::Vmxoff, M::Vmread, M::Vmwrite, M::Vmptrld, M::Vmptrst,
        M::Vmclear, M::Vmlaunch, M::Vmresume, M::Vmfunc, M::Invept, M::Invvpid,
        M::Vmrun, M::Vmload, M::Vmsave, M::Clgi, M::Stgi, M::Skinit, M::Invlpga,
        M::Vmgexit, M::Rsm, M::Getsec, M::Getsecq, M::Encls, M::Enclu, M::Enclv,
        M::Tdcall, M::Seamret, M::Seamcall, M::Seamops, M::Rmpadjust, M::Rmpupdate,
        M::Rmpquery, M::Psmash, M::Pvalidate,
    ]),
    (Class::Excluded(Why::NotOffered), &[
        M::Incsspd, M::Incsspq, M::Wrssd, M::Wrssq, M::Wrussd, M::Wrussq,
        M::Setssbsy, M::Clrssbsy, M::Rstorssp, M::Saveprevssp, M::Xbegin, M::Xabort,
        M::Xend, M::Xtest, M::Rdpkru, M::Wrpkru, M::Monitorx, M::Mwaitx,
        M::Umonitor, M::Umwait, M::Tpause, M::Clzero, M::Mcommit, M::Rdpru,
        M::Invlpgb, M::Tlbsync, M::Xsusldtrk, M::Xresldtrk, M::Hreset,
        M::Lkgs, M::Eretu, M::Erets, M::Uiret, M::Clui, M::Stui, M::Testui,
        M::Senduipi, M::Enqcmd, M::Enqcmds, M::Movdir64b, M::Movdiri, M::Ptwrite,
        M::Pcommit, M::Pconfig, M::Rdudbg, M::Wrudbg, M::Rdmsrlist, M::Wrmsrlist,
        M::Wrmsrns, M::Pbndkb, M::Loadiwkey, M::Cl1invmb,
    ]),
];

/// Codes whose mnemonic says something else.
#[rustfmt::skip]
const CODES: &[(Class, &[Code])] = &[
    (Class::System, &[
        Code::Mov_Sreg_rm16, Code::Mov_Sreg_r32m16, Code::Mov_Sreg_r64m16,
        Code::Mov_r32_cr, Code::Mov_r64_cr, Code::Mov_r32_dr, Code::Mov_r64_dr,
        Code::Mov_cr_r32, Code::Mov_cr_r64, Code::Mov_dr_r32, Code::Mov_dr_r64,
        Code::Popw_ES, Code::Popd_ES, Code::Popw_SS, Code::Popd_SS, Code::Popw_DS,
        Code::Popd_DS, Code::Popw_FS, Code::Popd_FS, Code::Popq_FS, Code::Popw_GS,
        Code::Popd_GS, Code::Popq_GS, Code::Call_ptr1616, Code::Call_ptr1632,
        Code::Jmp_ptr1616, Code::Jmp_ptr1632, Code::Call_m1616, Code::Call_m1632,
        Code::Call_m1664, Code::Jmp_m1616, Code::Jmp_m1632, Code::Jmp_m1664,
    ]),
    (Class::Native(Unit::Sse), &[
        Code::Movsd_xmm_xmmm64, Code::Movsd_xmmm64_xmm, Code::Cmpsd_xmm_xmmm64_imm8,
    ]),
    (Class::Excluded(Why::Vendor), &[
        Code::Mov_r32_tr, Code::Mov_tr_r32, Code::Popw_CS,
        Code::XOP_Bextr_r32_rm32_imm32, Code::XOP_Bextr_r64_rm64_imm32,
    ]),
];

/// Instructions of the SSE families that use MMX registers only, so that
/// CR4.OSFXSR does not matter to them (SDM vol 3, 2.5 and 13.1).
#[rustfmt::skip]
pub(super) const MMX_FORMS: &[Code] = &[
    Code::Punpcklbw_mm_mmm32, Code::Punpcklwd_mm_mmm32, Code::Punpckldq_mm_mmm32,
    Code::Packsswb_mm_mmm64, Code::Pcmpgtb_mm_mmm64, Code::Pcmpgtw_mm_mmm64,
    Code::Pcmpgtd_mm_mmm64, Code::Packuswb_mm_mmm64, Code::Punpckhbw_mm_mmm64,
    Code::Punpckhwd_mm_mmm64, Code::Punpckhdq_mm_mmm64, Code::Packssdw_mm_mmm64,
    Code::Movd_mm_rm32, Code::Movq_mm_rm64, Code::Movq_mm_mmm64,
    Code::Pshufw_mm_mmm64_imm8, Code::Psrlw_mm_imm8, Code::Psraw_mm_imm8,
    Code::Psllw_mm_imm8, Code::Psrld_mm_imm8, Code::Psrad_mm_imm8, Code::Pslld_mm_imm8,
    Code::Psrlq_mm_imm8, Code::Psllq_mm_imm8, Code::Pcmpeqb_mm_mmm64,
    Code::Pcmpeqw_mm_mmm64, Code::Pcmpeqd_mm_mmm64, Code::Movd_rm32_mm,
    Code::Movq_rm64_mm, Code::Movq_mmm64_mm, Code::Pinsrw_mm_r32m16_imm8,
    Code::Pinsrw_mm_r64m16_imm8, Code::Pextrw_r32_mm_imm8, Code::Pextrw_r64_mm_imm8,
    Code::Psrlw_mm_mmm64, Code::Psrld_mm_mmm64, Code::Psrlq_mm_mmm64,
    Code::Paddq_mm_mmm64, Code::Pmullw_mm_mmm64, Code::Pmovmskb_r32_mm,
    Code::Pmovmskb_r64_mm, Code::Psubusb_mm_mmm64, Code::Psubusw_mm_mmm64,
    Code::Pminub_mm_mmm64, Code::Pand_mm_mmm64, Code::Paddusb_mm_mmm64,
    Code::Paddusw_mm_mmm64, Code::Pmaxub_mm_mmm64, Code::Pandn_mm_mmm64,
    Code::Pavgb_mm_mmm64, Code::Psraw_mm_mmm64, Code::Psrad_mm_mmm64,
    Code::Pavgw_mm_mmm64, Code::Pmulhuw_mm_mmm64, Code::Pmulhw_mm_mmm64,
    Code::Movntq_m64_mm, Code::Psubsb_mm_mmm64, Code::Psubsw_mm_mmm64,
    Code::Pminsw_mm_mmm64, Code::Por_mm_mmm64, Code::Paddsb_mm_mmm64,
    Code::Paddsw_mm_mmm64, Code::Pmaxsw_mm_mmm64, Code::Pxor_mm_mmm64,
    Code::Psllw_mm_mmm64, Code::Pslld_mm_mmm64, Code::Psllq_mm_mmm64,
    Code::Pmuludq_mm_mmm64, Code::Pmaddwd_mm_mmm64, Code::Psadbw_mm_mmm64,
    Code::Maskmovq_rDI_mm_mm, Code::Psubb_mm_mmm64, Code::Psubw_mm_mmm64,
    Code::Psubd_mm_mmm64, Code::Psubq_mm_mmm64, Code::Paddb_mm_mmm64,
    Code::Paddw_mm_mmm64, Code::Paddd_mm_mmm64, Code::Pshufb_mm_mmm64,
    Code::Phaddw_mm_mmm64, Code::Phaddd_mm_mmm64, Code::Phaddsw_mm_mmm64,
    Code::Pmaddubsw_mm_mmm64, Code::Phsubw_mm_mmm64, Code::Phsubd_mm_mmm64,
    Code::Phsubsw_mm_mmm64, Code::Psignb_mm_mmm64, Code::Psignw_mm_mmm64,
    Code::Psignd_mm_mmm64, Code::Pmulhrsw_mm_mmm64, Code::Pabsb_mm_mmm64,
    Code::Pabsw_mm_mmm64, Code::Pabsd_mm_mmm64, Code::Palignr_mm_mmm64_imm8,
    Code::Paveb_mm_mmm64, Code::Paddsiw_mm_mmm64, Code::Pmagw_mm_mmm64,
    Code::Pdistib_mm_m64, Code::Psubsiw_mm_mmm64, Code::Pmvzb_mm_m64,
    Code::Pmulhrw_mm_mmm64, Code::Pmvnzb_mm_m64, Code::Pmvlzb_mm_m64,
    Code::Pmvgezb_mm_m64, Code::Pmulhriw_mm_mmm64, Code::Pmachriw_mm_m64,
];

/// Features of legacy-encoded instructions on XMM registers.
#[rustfmt::skip]
pub(super) const SSE: &[F] = &[
    F::SSE, F::SSE2, F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2, F::SSE4A, F::AES,
    F::PCLMULQDQ, F::SHA, F::GFNI,
];

/// Features that no guest is offered.
#[rustfmt::skip]
pub(super) const NOT_OFFERED: &[F] = &[
    F::AMX_BF16, F::AMX_TILE, F::AMX_INT8, F::AMX_FP16, F::AMX_COMPLEX, F::KL,
    F::AESKLE, F::WIDE_KL, F::AVX512PF, F::AVX512ER, F::AVX512_4FMAPS, F::AVX512_4VNNIW,
    F::LWP, F::TBM, F::RAO_INT, F::CMPCCXADD, F::CET_SS, F::UINTR,
];

/// Features of processors that are not 64-bit Intel or AMD.
#[rustfmt::skip]
pub(super) const VENDOR: &[F] = &[
    F::KNC, F::UMOV, F::IA64, F::INTEL286_ONLY, F::INTEL386_ONLY, F::INTEL386_A0_ONLY,
    F::INTEL486_A_ONLY, F::CENTAUR_AIS, F::FPU287XL_ONLY, F::FPU387SL_ONLY,
    F::PADLOCK_ACE, F::PADLOCK_PHE, F::PADLOCK_PMM, F::PADLOCK_RNG, F::PADLOCK_GMI,
    F::PADLOCK_UNDOC, F::CYRIX_FPU, F::CYRIX_SMM, F::CYRIX_SMINT, F::CYRIX_SMINT_0F7E,
    F::CYRIX_SHR, F::CYRIX_DDI, F::CYRIX_EMMI, F::CYRIX_DMI, F::CYRIX_D3NOW,
];

/// The class that the mnemonic alone decides.
pub(super) fn by_mnemonic(m: M) -> Option<Class> {
    ROWS.iter().find(|r| r.1.contains(&m)).map(|r| r.0)
}

/// The class of a code listed by itself.
pub(super) fn by_code(c: Code) -> Option<Class> {
    CODES.iter().find(|r| r.1.contains(&c)).map(|r| r.0)
}
