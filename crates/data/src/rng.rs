//! The source of every random choice in data and tests: the same on every machine, for ever.

/// splitmix64: a few additions and multiplications, so its numbers never change with a library version.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A stream for the given words; each is mixed in, so neighbouring seeds have unrelated streams.
    pub fn of(words: &[u64]) -> Self {
        let mut rng = Rng(0x5357_4954_4348_464D);
        for &word in words {
            rng.0 ^= word;
            rng.0 = rng.next();
        }
        rng
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n without bias (Lemire's method); 0 where `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        let n = u64::from(n.max(1));
        loop {
            let m = (self.next() >> 32) * n;
            // The lowest part of the range is rejected where it would be hit once too often.
            if (m & 0xFFFF_FFFF) >= (1u64 << 32) % n {
                return (m >> 32) as u32;
            }
        }
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}
