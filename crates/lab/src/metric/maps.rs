//! Figures over the pixels of maps.

/// How often each class was answered for each class that was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `[right, answered]`.
    counts: Vec<u64>,
    classes: usize,
}

impl Confusion {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Confusion { counts: vec![0; classes * classes], classes }
    }

    /// Counts one pixel; what is no class is left out.
    pub fn add(&mut self, right: usize, answered: usize) {
        if right < self.classes && answered < self.classes {
            self.counts[right * self.classes + answered] += 1;
        }
    }

    /// Right answers, answers in all, and pixels in all, of a class.
    fn of(&self, class: usize) -> [f64; 3] {
        let sum = |at: fn(usize, usize, usize) -> usize| -> u64 {
            (0..self.classes).map(|i| self.counts[at(class, i, self.classes)]).sum()
        };
        let right = self.counts[class * self.classes + class];
        [right, sum(|class, i, n| i * n + class), sum(|class, i, n| class * n + i)].map(|n| n as f64)
    }

    /// Share of the pixels that were answered rightly.
    pub fn accuracy(&self) -> f64 {
        let right: f64 = (0..self.classes).map(|c| self.of(c)[0]).sum();
        right / self.counts.iter().sum::<u64>().max(1) as f64
    }

    /// Mean over the classes that occur, in answers or in truth, of right answers over the union of both.
    pub fn mean_iou(&self) -> f64 {
        let each: Vec<f64> = (0..self.classes)
            .map(|c| self.of(c))
            .filter(|[_, answered, there]| answered + there > 0.0)
            .map(|[right, answered, there]| right / (answered + there - right))
            .collect();
        each.iter().sum::<f64>() / each.len().max(1) as f64
    }

    /// Harmonic mean of precision and recall of a class; 0 where it never occurs.
    pub fn f1(&self, class: usize) -> f64 {
        let [right, answered, there] = self.of(class);
        if answered + there > 0.0 { 2.0 * right / (answered + there) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_hand() {
        let mut c = Confusion::new(3);
        for (right, answered, n) in [(0, 0, 6), (0, 1, 2), (1, 1, 3), (1, 0, 1), (9, 0, 5)] {
            (0..n).for_each(|_| c.add(right, answered));
        }
        assert_eq!(c.accuracy(), 9.0 / 12.0);
        assert_eq!(c.mean_iou(), (6.0 / 9.0 + 3.0 / 6.0) / 2.0);
        assert_eq!(c.f1(1), 2.0 * 3.0 / (5.0 + 4.0));
        assert_eq!(c.f1(2), 0.0);
    }
}
