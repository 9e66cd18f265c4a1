"""Vision-guided reinforcement learning for verl: the pure part, which loads no framework.

>>> from verl_visionr1 import Target, score
>>> target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
>>> score('[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]', target).value
1.0
"""

from __future__ import annotations

from verl_visionr1.frames import FRAMES as FRAMES
from verl_visionr1.frames import Frame as Frame
from verl_visionr1.frames import FrameError as FrameError
from verl_visionr1.rewards import COMMON_METRICS as COMMON_METRICS
from verl_visionr1.rewards import PRESETS as PRESETS
from verl_visionr1.rewards import Preset as Preset
from verl_visionr1.rewards import RewardError as RewardError
from verl_visionr1.rewards import Score as Score
from verl_visionr1.rewards import score as score
from verl_visionr1.targets import Target as Target
from verl_visionr1.targets import TargetError as TargetError

__version__ = "0.1.0"
