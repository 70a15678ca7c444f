"""A trainer on two processes, of which the first is killed while it saves the second checkpoint."""

from __future__ import annotations

import os
import signal

import hf_cases
from retainfirst.hf import TwoTaskTrainer


class Killed(TwoTaskTrainer):
    def _save_optimizer_and_scheduler(self, output_dir):
        if self.state.global_step == 2 and self.args.process_index == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


if __name__ == "__main__":
    hf_cases.train(kind=Killed, max_steps=4, save_strategy="steps", save_steps=1)
    print("trained")
