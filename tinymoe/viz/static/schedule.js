// Learning-rate schedules: the formulas of tinymoe/train/schedule.py. Steps count from 0.

const warm = (step, lr, warmup) => (lr * (step + 1)) / (warmup + 1);

export const SCHEDULES = {
  constant: (step, { lr, warmup }) => lr * Math.min(1, (step + 1) / (warmup + 1)),
  cosine: (step, { lr, steps, warmup, min_lr }) => {
    if (step < warmup) return warm(step, lr, warmup);
    const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
    return min_lr + ((lr - min_lr) * (1 + Math.cos(Math.PI * progress))) / 2;
  },
  wsd: (step, { lr, steps, decay, warmup, min_lr }) => {
    if (step < warmup) return warm(step, lr, warmup);
    const progress = Math.min(1, Math.max(0, (step - (steps - decay)) / Math.max(1, decay)));
    return min_lr + (lr - min_lr) * (1 - progress);
  },
};

/** The rate at each step. */
export function rates(settings) {
  const rate = SCHEDULES[settings.schedule];
  return Float32Array.from({ length: settings.steps }, (_, step) => rate(step, settings));
}
