//! Changes documents at random, the same way each time for the same seed.

/// What has hurt parsers before.
const WORDS: &[&str] = &[
    "-1",
    "0",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "-9223372036854775808",
    "1e308",
    "1e-400",
    "null",
    "true",
    "false",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    ",",
    ":",
    "..",
    "/../../",
    "//",
    "\u{0}",
    "%s%n",
    "a,b",
    "0-99999999",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_ERRNO",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_ARCH_X32",
    "rro",
    "ridmap",
    "tmpcopyup",
    "root:x:0:0::/:",
    "\n",
    "\n\n",
    "x:x:-1:-1",
    "é",
    "\u{feff}",
];

const LONGEST: usize = 1 << 17;

/// Makes input out of seeds.
#[derive(Debug)]
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, seeds }
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    /// A range of a document, mostly short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        from..(from + self.below(most + 1)).min(len)
    }

    /// The input with this number: the seeds themselves come first.
    pub(crate) fn next(&mut self, number: u64) -> Vec<u8> {
        if let Some(seed) = usize::try_from(number).ok().and_then(|n| self.seeds.get(n)) {
            return seed.clone();
        }
        let at = self.below(self.seeds.len());
        let mut input = self.seeds[at].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        match self.below(7) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 => drop(input.splice(range, std::iter::empty())),
            2 => {
                let copy = input[range.clone()].to_vec();
                let most = if self.below(8) == 0 { 200 } else { 3 };
                let times = 1 + self.below(most);
                drop(input.splice(range.start..range.start, copy.repeat(times)));
            }
            3 => {
                let other = self.below(self.seeds.len());
                let part = self.range(self.seeds[other].len());
                let part = self.seeds[other][part].to_vec();
                drop(input.splice(range, part));
            }
            4 => self.replace_number(input),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                drop(input.splice(range.start..range.start, word.bytes()));
            }
        }
    }

    /// Puts another number (or word) where a number is: the document stays well-formed.
    fn replace_number(&mut self, input: &mut Vec<u8>) {
        let from = self.below(input.len());
        let digit = |b: &u8| b.is_ascii_digit();
        let Some(start) = input[from..].iter().position(digit).map(|p| p + from) else { return };
        let end = input[start..].iter().position(|b| !digit(b)).map_or(input.len(), |p| p + start);
        let word = WORDS[self.below(20)];
        drop(input.splice(start..end, word.bytes()));
    }
}
