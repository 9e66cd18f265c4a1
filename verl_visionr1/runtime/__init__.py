"""What surrounds a run: checks before it, a CPU platform, a watch over its processes, its checkpoints, its pages.

The rewards need none of it. Each part has a switch of its own, and `verl_visionr1.plugin` imports none of them:

    +visionr1@_global_=checks            preflight: settings, data, steps, disk and checkpoints before Ray starts
    +visionr1@_global_=watchdog          watchdog: ends a run that has lost a process, or in which nothing arrives
    +visionr1@_global_=replace_workers   reward_workers: a new reward worker takes the place of a dead one
    +visionr1@_global_=gallery           gallery_page: a page of each validation
    +visionr1@_global_=cpu, VERL_PLATFORM=cpu          cpu_platform: training on a CPU (entry point `visionr1_cpu`)
    actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision     a vision tower that is not trained
    visionr1 dry-run, reshard, check     dry_run, resharding, check
"""
