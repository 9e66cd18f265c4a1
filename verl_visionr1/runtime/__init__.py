"""What surrounds a run: checks, a CPU platform, a watchdog, checkpoints, galleries.

The rewards work without it. Each part has its own switch, and `verl_visionr1.plugin` imports none of them:

    +visionr1@_global_=checks            preflight: settings, data, steps, disk and checkpoints before Ray starts
    +visionr1@_global_=watchdog          watchdog: ends a run that has lost a process or has stalled
    +visionr1@_global_=replace_workers   reward_workers: replaces dead reward workers
    +visionr1@_global_=gallery           gallery_page: a page per validation
    +visionr1@_global_=cpu, VERL_PLATFORM=cpu          cpu_platform: training on a CPU (entry point `visionr1_cpu`)
    actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision     freezes the vision tower
    visionr1 dry-run, reshard, check     dry_run, resharding, check
"""
