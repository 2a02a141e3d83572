//! Writes the BPF program.
//!
//! ```text
//!   load arch ── x86-64 ─▶ load nr ── bit 30 clear ─▶ search(x86-64)
//!            │                     └─ bit 30 set ──▶ clear it, search(x32), or kill
//!            ├── x86 ───▶ load nr ─▶ search(x86)
//!            └── other ─▶ kill
//! ```

use corten_sys::seccomp::Instruction;
use corten_wire::oci_runtime::SeccompArg;

use super::{BAD_ARCHITECTURE, ENOSYS, SeccompError, Table, Verdict};

const LOAD: u16 = 0x20; // ld [k]
const AND: u16 = 0x54; // and #k
const JUMP: u16 = 0x05; // ja +k
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const X32_BIT: u32 = 0x4000_0000;
const LONGEST: usize = 4096;

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> Vec<Instruction> {
    match (u8::try_from(jt), u8::try_from(jf)) {
        (Ok(jt), Ok(jf)) => vec![Instruction { code, jt, jf, k }],
        // Conditional jumps reach 255 instructions; further away by way of an unconditional one.
        _ => vec![
            Instruction { code, jt: 0, jf: 1, k },
            op(JUMP, u32::try_from(jt + 1).unwrap_or(u32::MAX)),
            op(JUMP, u32::try_from(jf).unwrap_or(u32::MAX)),
        ],
    }
}

pub(super) fn program(tables: &[Table]) -> Result<Vec<Instruction>, SeccompError> {
    let mut out = vec![op(LOAD, ARCHITECTURE)];
    let mut audits: Vec<u32> = tables.iter().map(|t| t.audit).collect();
    audits.dedup();
    for audit in audits {
        let of = |marked| tables.iter().find(|t| t.audit == audit && t.marked == marked);
        let mut block = vec![op(LOAD, NUMBER)];
        let plain = of(false).map_or_else(|| vec![op(RETURN, BAD_ARCHITECTURE)], search);
        if audit == 0xC000_003E {
            let mut x32 = vec![op(AND, !X32_BIT)];
            x32.extend(of(true).map_or_else(|| vec![op(RETURN, BAD_ARCHITECTURE)], search));
            block.extend(jump(JGE, X32_BIT, 0, x32.len()));
            block.extend(x32);
        }
        block.extend(plain);
        out.extend(jump(JEQ, audit, 0, block.len()));
        out.extend(block);
    }
    out.push(op(RETURN, BAD_ARCHITECTURE));
    if out.len() > LONGEST { Err(SeccompError::TooLarge) } else { Ok(out) }
}

/// Ranges of numbers with the same verdict, from 0 up, and the search among them.
fn search(table: &Table) -> Vec<Instruction> {
    let plain = |answer| Verdict { conditions: Vec::new(), otherwise: answer };
    let mut ranges: Vec<(u32, Verdict)> = vec![(0, plain(table.default))];
    let mut push = |from: u32, verdict: Verdict| {
        if ranges.last().is_some_and(|(start, _)| *start == from) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((from, verdict));
        }
    };
    for (number, verdict) in &table.verdicts {
        push(*number, verdict.clone());
        push(number + 1, plain(table.default));
    }
    if let Some(from) = table.unknown_from {
        push(from, plain(ENOSYS));
    }
    tree(&ranges)
}

fn tree(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let pivot = right[0].0;
    let (left, right) = (tree(left), tree(right));
    let mut out = jump(JGE, pivot, left.len(), 0);
    out.extend(left);
    out.extend(right);
    out
}

fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    let mut out = Vec::new();
    for (arguments, answer) in &verdict.conditions {
        let mut tail = vec![op(RETURN, *answer)];
        // Built from the end, because a failed condition jumps over everything that follows it.
        for argument in arguments.iter().rev() {
            let mut one = condition(argument, tail.len());
            one.extend(tail);
            tail = one;
        }
        out.extend(tail);
    }
    out.push(op(RETURN, verdict.otherwise));
    out
}

/// Falls through if the condition holds, else jumps over the `rest` instructions that follow. 64-bit values are
/// compared half by half.
fn condition(argument: &SeccompArg, rest: usize) -> Vec<Instruction> {
    let low = ARGUMENTS + argument.index * 8;
    let high = low + 4;
    let (mask, value) = match argument.op.as_str() {
        "SCMP_CMP_MASKED_EQ" => (argument.value, argument.value_two),
        _ => (u64::MAX, argument.value),
    };
    let (value_high, value_low) = ((value >> 32) as u32, value as u32);
    let (code, greater_passes, negate) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (JEQ, false, true),
        "SCMP_CMP_GT" => (JGT, true, false),
        "SCMP_CMP_LE" => (JGT, true, true),
        "SCMP_CMP_GE" => (JGE, true, false),
        "SCMP_CMP_LT" => (JGE, true, true),
        _ => (JEQ, false, false),
    };
    // The layout, with the distances to "holds" (the end) and "fails" (the end + rest) counted from it:
    //   ld high; and; [jgt high → yes]; jeq high else no; ld low; and; code low → yes else no
    let (yes, no) = if negate { (rest, 0) } else { (0, rest) };
    let mut tail = jump(code, value_low, yes, no);
    let mut lead = vec![op(LOAD, low)];
    if mask as u32 != u32::MAX {
        lead.push(op(AND, mask as u32));
    }
    lead.extend(tail);
    tail = lead;
    let mut out = jump(JEQ, value_high, 0, tail.len() + no);
    out.extend(tail);
    if greater_passes {
        let mut first = jump(JGT, value_high, out.len() + yes, 0);
        first.extend(out);
        out = first;
    }
    let mut whole = vec![op(LOAD, high)];
    if (mask >> 32) as u32 != u32::MAX {
        whole.push(op(AND, (mask >> 32) as u32));
    }
    whole.extend(out);
    whole
}
