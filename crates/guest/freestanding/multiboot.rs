//! A Multiboot kernel (Multiboot Specification 0.6.96) of 32-bit code: prints
//! what its loader told it through the debug console at port 0xe9, then ends
//! the machine through `isa-debug-exit` at port 0xf4.
//!
//! Linked as a flat file, whose header has the address fields.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .boot, "ax"
    .code32
    .globl start
    // Flags: align modules, memory information, address fields.
    .set FLAGS, 0x00010003
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
    .long header, header, 0, stack_top, start

    .macro say text
    call 9f
    .asciz "\text"
9:  popl %esi
    call print
    .endm

start:
    movl $stack_top, %esp
    movl %ebx, %ebp                 // the information
    movl %eax, %edx
    say "magic "
    call print_hex
    say "\nflags "
    movl 0(%ebp), %edx
    call print_hex
    say "\nlower "
    movl 4(%ebp), %edx
    call print_hex
    say "\nupper "
    movl 8(%ebp), %edx
    call print_hex
    say "\nline "
    movl 16(%ebp), %esi
    call print
    say "\nloader "
    movl 64(%ebp), %esi
    call print
    // Modules: string, size and first bytes as text.
    movl 20(%ebp), %ecx
    movl 24(%ebp), %edi
1:  testl %ecx, %ecx
    jz 3f
    say "\nmodule "
    movl 8(%edi), %esi
    call print
    say " size "
    movl 4(%edi), %edx
    subl 0(%edi), %edx
    call print_hex
    say " at page "
    movl 0(%edi), %edx
    andl $0xfff, %edx
    call print_hex
    say " begins "
    movl 0(%edi), %esi
    movl $4, %edx
2:  lodsb
    outb %al, $0xe9
    decl %edx
    jnz 2b
    addl $16, %edi
    decl %ecx
    jmp 1b
    // The memory map: start and size, 64 bits each, and type.
3:  movl 48(%ebp), %edi
    movl 44(%ebp), %ecx
    addl %edi, %ecx
4:  cmpl %ecx, %edi
    jae 5f
    say "\nmap "
    movl 8(%edi), %edx
    call print_hex
    movl 4(%edi), %edx
    call print_hex
    say " "
    movl 16(%edi), %edx
    call print_hex
    movl 12(%edi), %edx
    call print_hex
    say " "
    movl 20(%edi), %edx
    call print_hex
    addl 0(%edi), %edi
    addl $4, %edi
    jmp 4b
    // Zeroed memory behind the file, as the header asked; then the end.
5:  say "\nbss "
    movl bss_start, %edx
    call print_hex
    say "\nEND\n"
    movl $0x10, %eax
    outl %eax, $0xf4
6:  hlt
    jmp 6b

// Prints the text at ESI; ESI ends behind its NUL.
print:
    lodsb
    testb %al, %al
    jz 7f
    outb %al, $0xe9
    jmp print
7:  ret

// Prints EDX as eight hexadecimal digits.
print_hex:
    pushl %ecx
    movl $8, %ecx
8:  roll $4, %edx
    movb %dl, %al
    andb $15, %al
    addb $0x30, %al
    cmpb $0x3a, %al
    jb 10f
    addb $0x27, %al
10: outb %al, $0xe9
    loop 8b
    popl %ecx
    ret

    .section .bss, "aw", @nobits
    .balign 16
bss_start:
    .skip 4096
stack_top:
"#,
    options(att_syntax)
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
