//! That a seed is a schedule. In a program of its own: which lines of a log are wanted is decided once for all threads, and
//! schedules whose log nobody reads would take them from those that are compared.

#[test]
fn the_same_seed_is_the_same_schedule() {
    for seed in 1..9 {
        let (one, other) = (sim::play(seed, true), sim::play(seed, true));
        let differs = one.log.iter().zip(&other.log).find(|(one, other)| one != other);
        assert!(differs.is_none() && one.log.len() == other.log.len(), "seed {seed}: {differs:?}");
    }
}
