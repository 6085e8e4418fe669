"""Reinforcement learning from human feedback: rollouts, advantages, PPO. A reward is a callable."""
