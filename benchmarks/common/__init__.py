"""What the benchmarks share: how contenders take turns, and the peers. Only benchmarks and tests import PyTorch."""
