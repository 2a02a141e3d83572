//! Names for containers that were given none: `adjective_surname`, and the grammar of names.

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "ample", "apt", "bold", "brave", "brisk", "calm", "candid", "clever", "coral",
    "crisp", "daring", "deft", "eager", "early", "earnest", "fair", "fearless", "fond", "frank", "gentle",
    "glad", "golden", "grand", "happy", "hardy", "honest", "humble", "ideal", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "mellow", "merry", "mighty", "modest", "neat", "nimble", "noble", "patient",
    "placid", "plucky", "polite", "prime", "proud", "quick", "quiet", "rapid", "ready", "robust", "rustic",
    "serene", "sharp", "silent", "smart", "solid", "steady", "stoic", "sturdy", "subtle", "sunny", "swift",
    "tender", "tidy", "tranquil", "trusty", "upbeat", "valiant", "vivid", "warm", "wise", "witty", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "agnesi",
    "ampere",
    "archimedes",
    "babbage",
    "banach",
    "bell",
    "bohr",
    "boltzmann",
    "boole",
    "brahe",
    "cantor",
    "carson",
    "cauchy",
    "cerf",
    "chandra",
    "clarke",
    "codd",
    "cori",
    "curie",
    "darwin",
    "davy",
    "dijkstra",
    "dirac",
    "edison",
    "einstein",
    "elion",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "haber",
    "hamilton",
    "hawking",
    "heisenberg",
    "hertz",
    "hilbert",
    "hopper",
    "hubble",
    "huygens",
    "hypatia",
    "joliot",
    "joule",
    "kepler",
    "khorana",
    "knuth",
    "lagrange",
    "lamarr",
    "lamport",
    "laplace",
    "leavitt",
    "leibniz",
    "linnaeus",
    "liskov",
    "lovelace",
    "maxwell",
    "mayer",
    "mccarthy",
    "mendel",
    "mirzakhani",
    "morse",
    "nash",
    "newton",
    "nobel",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "pauli",
    "perlman",
    "planck",
    "poincare",
    "raman",
    "ramanujan",
    "riemann",
    "ritchie",
    "rubin",
    "sagan",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "volta",
    "wiles",
    "wright",
    "wu",
    "yalow",
    "yonath",
];

/// A name that is probably free; from the tenth attempt on a digit is appended.
pub(crate) fn random(attempt: u32) -> String {
    let mut bytes = [0u8; 8];
    // A short read only makes the choice less random.
    let _filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let n = u64::from_ne_bytes(bytes);
    let pick = |list: &[&'static str], n: u64| list[usize::try_from(n % list.len() as u64).unwrap_or(0)];
    let name = format!("{}_{}", pick(ADJECTIVES, n), pick(SURNAMES, n >> 32));
    if attempt < 10 { name } else { format!("{name}{}", attempt % 10) }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`: Docker's grammar for the names of containers and volumes.
pub(crate) fn valid(name: &str) -> bool {
    name.len() > 1
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    #[test]
    fn grammar() {
        for (name, ok) in
            [("ab", true), ("a", false), ("_a", false), ("a b", false), ("a.b-c_d", true), ("é1", false)]
        {
            assert_eq!(super::valid(name), ok, "{name}");
        }
        assert!(super::valid(&super::random(0)));
        assert!(super::random(11).ends_with('1'));
    }
}
