"""Which module of Ray has which names, and where each one lives here: tables.

``MODULES`` is the whole layer. A module's names stand under the module of ours that has them, by
the same name; where ours is called otherwise, a module of this package gives it Ray's name. A name
that is in no table raises with the hint that fits best: the longest prefix in ``HINTS``.

Checklist to add a name: a row here; a user story in ``tests/parity`` if it behaves; if it is not
public in Ray, ``private.py`` instead, with who uses it.
"""

from __future__ import annotations

from typing import Any

VERSION = "2.60.0"
"""The version of Ray whose published API this is."""

_API = "shoal.compat.ray.api"
_ERRORS = "shoal.exceptions"
_FOR_TESTS = "shoal.compat.ray.for_tests"
_PRIVATE = "shoal.compat.ray.private"
_DEBUGGING = "shoal.compat.ray.debugging"
_LOGS = "shoal.compat.ray.logs"
_RECORDS = "shoal.compat.ray.records"
_STATES = "shoal.compat.ray.states"

_EXCEPTIONS = """
    ActorAlreadyExistsError ActorDiedError ActorHandleNotFoundError ActorPlacementGroupRemoved
    ActorUnavailableError ActorUnschedulableError AsyncioActorExit AuthenticationError
    CrossLanguageError GetTimeoutError LocalRayletDiedError NodeDiedError ObjectFetchTimedOutError
    ObjectFreedError ObjectLostError ObjectReconstructionFailedError
    ObjectRefStreamEndOfStreamError ObjectStoreFullError OufOfBandObjectRefSerializationException
    OutOfDiskError OutOfMemoryError OwnerDiedError PendingCallsLimitExceeded
    PlasmaObjectNotAvailable RayActorError RayCgraphCapacityExceeded RayChannelError
    RayChannelTimeoutError RayDirectTransportError RayError RaySystemError RayTaskError
    ReferenceCountingAssertionError RpcError RuntimeEnvSetupError
    StreamingGeneratorReplayInconsistentError TaskCancelledError TaskPlacementGroupRemoved
    TaskUnschedulableError UnserializableException UserCodeException WorkerCrashedError
"""
_IDS = """
    ActorClassID ActorID FunctionID JobID NodeID ObjectID PlacementGroupID TaskID UniqueID WorkerID
"""
_GROUPS = """
    PlacementGroup get_current_placement_group get_placement_group placement_group
    placement_group_table remove_placement_group
"""
_COLLECTIVE = """
    allgather allgather_multigpu allreduce allreduce_multigpu barrier broadcast broadcast_multigpu
    create_collective_group destroy_collective_group get_collective_group_size get_group_handle
    get_rank gloo_available init_collective_group is_backend_available is_group_initialized
    nccl_available recv recv_multigpu reduce reduce_multigpu reducescatter reducescatter_multigpu
    send send_multigpu
"""
_TABLES = """
    get_actor get_job get_node get_placement_group get_task get_worker list_actors list_jobs
    list_nodes list_objects list_placement_groups list_tasks list_workers summarize_actors
    summarize_objects summarize_tasks
"""
_NODES = """
    ClassMethodNode ClassNode CollectiveOutputNode DAGNode FunctionNode InputAttributeNode
    InputNode MultiOutputNode
"""

MODULES: dict[str, dict[str, str]] = {
    "ray": {
        "shoal": """ObjectRef ObjectRefGenerator available_resources cancel cluster_resources get
            get_actor get_gpu_ids get_runtime_context is_initialized kill method nodes remote
            timeline wait""",
        _API: "init put shutdown",
        _RECORDS: "Language LoggingConfig logger",
        "shoal.ids": _IDS,
    },
    "ray.actor": {
        "shoal": "ActorClass ActorHandle ObjectRefGenerator exit_actor method",
        "shoal._runtime.actor": "ActorMethod",
        _API: "ActorProxy",
        "shoal.util.scheduling_strategies": "PlacementGroupSchedulingStrategy",
        _ERRORS: "ActorAlreadyExistsError ActorClassInheritanceException AsyncioActorExit",
    },
    "ray.cluster_utils": {
        "shoal.compat.ray.clusters": "Cluster cluster_not_supported",
    },
    "ray.dag": {"shoal.dag": _NODES},
    "ray.dag.class_node": {"shoal.dag": "ClassMethodNode ClassNode"},
    "ray.dag.compiled_dag_node": {"shoal.dag": "CompiledDAG"},
    "ray.dag.collective_node": {"shoal.dag": "CollectiveOutputNode"},
    "ray.dag.dag_node": {"shoal.dag": "DAGNode"},
    "ray.dag.function_node": {"shoal.dag": "FunctionNode"},
    "ray.dag.input_node": {"shoal.dag": "InputAttributeNode InputNode"},
    "ray.dag.output_node": {"shoal.dag": "MultiOutputNode"},
    "ray.exceptions": {_ERRORS: _EXCEPTIONS},
    "ray.job_config": {_RECORDS: "JobConfig"},
    "ray.remote_function": {"shoal": "RemoteFunction"},
    "ray.runtime_context": {
        "shoal": "RuntimeContext get_runtime_context",
        "shoal.runtime_env": "RuntimeEnv",
    },
    "ray.runtime_env": {"shoal.runtime_env": "RuntimeEnv RuntimeEnvConfig"},
    "ray.types": {"shoal": "ObjectRef"},
    "ray.cloudpickle": {},
    "ray.util": {
        "shoal.util": "inspect_serializability list_named_actors register_serializer "
        "deregister_serializer ActorPool",
        "shoal.util.placement_group": _GROUPS.replace("PlacementGroup", ""),
        _API: """as_completed get_node_instance_id get_node_ip_address log_once
            map_unordered disable_log_once_globally enable_periodic_logging""",
    },
    "ray.util.actor_pool": {"shoal.util": "ActorPool"},
    "ray.util.accelerators": {},
    "ray.util.accelerators.accelerators": {},
    "ray.util.annotations": {
        _RECORDS: "Deprecated DeveloperAPI PublicAPI RayDeprecationWarning",
    },
    "ray.util.collective": {"shoal.util.collective": _COLLECTIVE},
    "ray.util.collective.collective": {"shoal.util.collective": _COLLECTIVE},
    "ray.util.collective.types": {"shoal.util.collective": "Backend ReduceOp"},
    "ray.util.metrics": {"shoal.util.metrics": "Counter Gauge Histogram Metric"},
    "ray.util.check_serialize": {"shoal.util": "inspect_serializability"},
    "ray.util.debug": {
        _API: "disable_log_once_globally enable_periodic_logging log_once reset_log_once",
    },
    "ray.util.helpers": {_API: "as_completed map_unordered"},
    "ray.util.dask": {
        "shoal.compat.ray.dask": """RayDaskCallback disable_dask_on_ray enable_dask_on_ray
            ray_dask_get ray_dask_get_sync ray_dask_persist""",
    },
    "ray.util.joblib": {"shoal.compat.ray.joblib": "register_ray"},
    "ray.util.multiprocessing": {"shoal.compat.ray.pools": "JoinableQueue Pool TimeoutError"},
    "ray.util.multiprocessing.pool": {
        "shoal.compat.ray.pools": "Pool",
        "shoal.util.multiprocessing": "AsyncResult MapResult",
    },
    "ray.util.placement_group": {"shoal.util.placement_group": _GROUPS},
    "ray.util.queue": {"shoal.util.queue": "Empty Full Queue"},
    "ray.util.scheduling_strategies": {
        "shoal.util.scheduling_strategies": """DoesNotExist Exists In NotIn
            NodeAffinitySchedulingStrategy NodeLabelSchedulingStrategy
            PlacementGroupSchedulingStrategy""",
    },
    "ray.util.serialization": {"shoal.util": "deregister_serializer register_serializer"},
    "ray.util.pdb": {_DEBUGGING: "set_trace"},
    "ray.util.ray_debugpy": {_DEBUGGING: "set_trace"},
    "ray.util.rpdb": {_DEBUGGING: "set_trace"},
    "ray.util.state": {_STATES: _TABLES, _LOGS: "get_log list_logs"},
    "ray.util.state.api": {_STATES: _TABLES, _LOGS: "get_log list_logs"},
    "ray.util.state.exception": {
        _STATES: "DataSourceUnavailable RayStateApiException ServerUnavailable",
    },
    # ---- never public, used all the same: see private.py
    "ray._common": {},
    "ray._common.test_utils": {
        _FOR_TESTS: "Semaphore SignalActor",
        _PRIVATE: "wait_for_condition",
    },
    "ray._private": {},
    "ray._private.services": {_PRIVATE: "get_node_ip_address"},
    "ray._private.state": {
        _PRIVATE: "actors available_resources_per_node total_resources_per_node node_ids",
        "shoal": "available_resources cluster_resources nodes timeline",
    },
    "ray._private.test_utils": {
        _FOR_TESTS: "Semaphore SignalActor",
        _PRIVATE: "wait_for_condition",
    },
    "ray._private.worker": {
        _PRIVATE: "global_worker",
        _API: "init put shutdown RayContext",
        "shoal": "get get_actor get_gpu_ids is_initialized kill remote wait",
    },
    "ray._raylet": {"shoal": "ObjectRef ObjectRefGenerator", "shoal.ids": _IDS},
    "ray.experimental": {_PRIVATE: "get_local_object_locations get_object_locations"},
    "ray.experimental.collective": {
        "shoal.dag.collective": "allgather allreduce reducescatter",
        "shoal.compat.ray.groups": """create_collective_group destroy_all_collective_groups
            destroy_collective_group get_collective_groups""",
    },
    "ray.experimental.util.types": {"shoal.util.collective": "ReduceOp"},
    "ray.experimental.locations": {
        _PRIVATE: "get_local_object_locations get_object_locations",
    },
    "ray.experimental.compiled_dag_ref": {"shoal.dag": "CompiledDAGFuture CompiledDAGRef"},
    "ray.experimental.tqdm_ray": {"shoal.util.progress": "safe_print tqdm"},
    "ray.experimental.internal_kv": {
        _PRIVATE: """_internal_kv_del _internal_kv_exists _internal_kv_get
            _internal_kv_initialized _internal_kv_list _internal_kv_put""",
    },
    "ray.state": {
        _PRIVATE: "actors available_resources_per_node total_resources_per_node node_ids",
        "shoal": "available_resources cluster_resources nodes timeline",
    },
    "ray.worker": {
        _PRIVATE: "global_worker",
        _API: "init put shutdown",
        "shoal": "get get_gpu_ids is_initialized remote wait",
    },
}

LATER: dict[str, str] = {}
"""Rows whose home does not exist yet, by module: they raise with their hint, and no ``*`` brings
them."""

DELEGATES = {"ray.cloudpickle": "cloudpickle"}
"""Modules that are another one under a name of Ray's."""

_MODES = {"SCRIPT_MODE": 0, "WORKER_MODE": 1, "LOCAL_MODE": 2}
_ACCELERATORS = {
    "AMD_INSTINCT_MI100": "AMD-Instinct-MI100",
    "AMD_INSTINCT_MI210": "AMD-Instinct-MI210",
    "AMD_INSTINCT_MI250": "AMD-Instinct-MI250X-MI250",
    "AMD_INSTINCT_MI250x": "AMD-Instinct-MI250X",
    "AMD_INSTINCT_MI300A": "AMD-Instinct-MI300A",
    "AMD_INSTINCT_MI300x": "AMD-Instinct-MI300X-OAM",
    "AMD_INSTINCT_MI300x_HF": "AMD-Instinct-MI300X-HF",
    "AMD_INSTINCT_MI308x": "AMD-Instinct-MI308X",
    "AMD_INSTINCT_MI325x": "AMD-Instinct-MI325X-OAM",
    "AMD_INSTINCT_MI350x": "AMD-Instinct-MI350X-OAM",
    "AMD_INSTINCT_MI355x": "AMD-Instinct-MI355X-OAM",
    "AMD_RADEON_HD_7900": "AMD-Radeon-HD-7900",
    "AMD_RADEON_R9_200_HD_7900": "AMD-Radeon-R9-200-HD-7900",
    "APPLE_M1": "M1",
    "APPLE_M1_MAX": "M1-Max",
    "APPLE_M1_PRO": "M1-Pro",
    "APPLE_M1_ULTRA": "M1-Ultra",
    "APPLE_M2": "M2",
    "APPLE_M2_MAX": "M2-Max",
    "APPLE_M2_PRO": "M2-Pro",
    "APPLE_M2_ULTRA": "M2-Ultra",
    "APPLE_M3": "M3",
    "APPLE_M3_MAX": "M3-Max",
    "APPLE_M3_PRO": "M3-Pro",
    "APPLE_SILICON": "Apple-Silicon",
    "AWS_NEURON_CORE": "aws-neuron-core",
    "FURIOSA_RNGD": "FURIOSA_RNGD",
    "GOOGLE_TPU_V2": "TPU-V2",
    "GOOGLE_TPU_V3": "TPU-V3",
    "GOOGLE_TPU_V4": "TPU-V4",
    "GOOGLE_TPU_V5LITEPOD": "TPU-V5LITEPOD",
    "GOOGLE_TPU_V5P": "TPU-V5P",
    "GOOGLE_TPU_V6E": "TPU-V6E",
    "GOOGLE_TPU_V7X": "TPU-V7X",
    "HUAWEI_NPU_910B": "Ascend910B",
    "HUAWEI_NPU_910B4": "Ascend910B4",
    "INTEL_GAUDI": "Intel-GAUDI",
    "INTEL_MAX_1100": "Intel-GPU-Max-1100",
    "INTEL_MAX_1550": "Intel-GPU-Max-1550",
    "METAX_C500": "MXC500",
    "METAX_C550": "MXC550",
    "MOBILINT_ARIES": "MOBILINT_ARIES",
    "MOBILINT_REGULUS": "MOBILINT_REGULUS",
    "NVIDIA_A100": "A100",
    "NVIDIA_A100_40G": "A100-40G",
    "NVIDIA_A100_80G": "A100-80G",
    "NVIDIA_B200": "B200",
    "NVIDIA_B300": "B300",
    "NVIDIA_GB200": "GB200",
    "NVIDIA_GB300": "GB300",
    "NVIDIA_H100": "H100",
    "NVIDIA_H20": "H20",
    "NVIDIA_H200": "H200",
    "NVIDIA_L4": "L4",
    "NVIDIA_L40S": "L40S",
    "NVIDIA_RTX_PRO_6000": "RTX-PRO-6000",
    "NVIDIA_TESLA_A100": "A100",
    "NVIDIA_TESLA_A10G": "A10G",
    "NVIDIA_TESLA_K80": "K80",
    "NVIDIA_TESLA_P100": "P100",
    "NVIDIA_TESLA_P4": "P4",
    "NVIDIA_TESLA_T4": "T4",
    "NVIDIA_TESLA_V100": "V100",
}
"""Values of the option ``accelerator_type``, as nodes declare them."""

CONSTANTS: dict[str, dict[str, Any]] = {
    "ray": {**_MODES, "__version__": VERSION, "__commit__": "shoal"},
    "ray._private.worker": _MODES,
    "ray.util.accelerators": _ACCELERATORS,
    "ray.util.accelerators.accelerators": _ACCELERATORS,
    "ray.worker": _MODES,
}

_FREED = "a value is freed as soon as its last ref is gone: drop the ref"
_LIBRARIES = "the libraries (data, train, tune, serve, rl) are not there yet"
_STOPS = "set_trace stops a task; shoal.debug(ref) and `shoal debug` do the rest"
_NO_TRANSPORT = "values of graphs travel through shared memory, on CPUs; see docs/graphs.md"
_CLIENT = "there is no client mode; init('HOST:PORT') joins a cluster from any machine"
HINTS: dict[str, str] = {
    "ray": "see docs/from-ray.md for what there is",
    "ray.air": _LIBRARIES,
    "ray.ClientBuilder": _CLIENT,
    "ray.client": _CLIENT,
    "ray.util.client": _CLIENT,
    "ray.util.connect": _CLIENT,
    "ray.autoscaler": "there is no autoscaling: one machine is all there is",
    "ray.cluster_utils.AutoscalingCluster": "use Cluster, and add_node and remove_node",
    "ray.cross_language": "Shoal runs Python only",
    "ray.cpp_function": "Shoal runs Python only",
    "ray.java_actor_class": "Shoal runs Python only",
    "ray.java_function": "Shoal runs Python only",
    "ray.DynamicObjectRefGenerator": "num_returns='dynamic' gives an ObjectRefGenerator",
    "ray.dag": "it is an inner name of Ray's graphs; docs/graphs.md has what programs use",
    "ray.dag.DAGContext": "what it sets are arguments of compile(); see docs/graphs.md",
    "ray.dag.GPUFuture": _NO_TRANSPORT,
    "ray.dag.plot": "use visualize() of a node or of a compiled graph",
    "ray.dashboard": "there is no dashboard; use shoal.state, `shoal status` and `shoal list`",
    "ray.data": _LIBRARIES + "; use shoal.map for parallel work over items",
    "ray.experimental": "of Ray's experimental names there are tqdm_ray, compiled_dag_ref,"
    " collective, internal_kv and get_object_locations",
    "ray.experimental.array": "use NumPy arrays: they are read in place, without a copy",
    "ray.experimental.channel": "use shoal.lowlevel.channel, or a compiled graph",
    "ray.experimental.dynamic_resources": "Ray has taken it out too; use init(resources=...)",
    "ray.experimental.multiprocessing": "use ray.util.multiprocessing",
    "ray.experimental.queue": "use ray.util.queue",
    "ray.experimental.rdt": "tensors travel through node memory",
    "ray.experimental.set_resource": "Ray has taken it out too; use init(resources=...)",
    "ray.experimental.shuffle": _LIBRARIES,
    "ray.experimental.tqdm_ray.instance": "the driver draws bars by itself, and print is safe",
    "ray.job_submission": "there is no job server; run the program with `shoal run`",
    "ray.llm": _LIBRARIES,
    "ray.rllib": _LIBRARIES,
    "ray.serve": _LIBRARIES,
    "ray.train": _LIBRARIES,
    "ray.tune": _LIBRARIES,
    "ray.workflow": "workflows were taken out of Ray too; chain tasks by passing refs",
    "ray.util.actor_group": "keep handles of actors in a list",
    "ray.util.accelerators": "give accelerator_type the text that the node declares",
    "ray.util.collective.register_collective_backend": "groups go through shared memory only",
    "ray.util.dask.ProgressBarCallback": "use dask.diagnostics.ProgressBar",
    "ray.util.dask.dataframe_optimize": "nothing is needed in its place",
    "ray.util.dask.local_ray_callbacks": "use RayDaskCallback as a context",
    "ray.util.dask.unpack_ray_callbacks": "use RayDaskCallback as a context",
    "ray.util.disconnect": _CLIENT,
    "ray.util.horovod": _LIBRARIES,
    "ray.util.iter_metrics": "use streaming generators (num_returns='streaming')",
    "ray.util.lightgbm": _LIBRARIES,
    "ray.util.sgd": _LIBRARIES,
    "ray.util.xgboost": _LIBRARIES,
    "ray.util.iter": "use streaming generators (num_returns='streaming')",
    "ray.util.pdb": _STOPS,
    "ray.util.ray_debugpy": _STOPS,
    "ray.util.rpdb": _STOPS,
    "ray.util.spark": "Spark is not there yet",
    "ray.util.state": "use shoal.state",
    "ray.util.state.StateApiClient": "there is no server to ask; use list_actors and the like",
    "ray.util.state.get_objects": "use list_objects(filters=[('object_id', '=', ...)])",
    "ray.util.state.list_cluster_events": "use shoal.state.events()",
    "ray.util.state.list_runtime_envs": "environments are shown with the tasks that wait for them",
    "ray.util.tpu": "there is no support for TPUs beyond resources that you declare",
    "ray.util.tracing": "use shoal.timeline()",
    "ray._common": "it is private in Ray; docs/from-ray.md lists the private names that are there",
    "ray._private.internal_api.free": _FREED,
    "ray._private.internal_api.global_gc": _FREED,
    "ray._private.internal_api.memory_summary": "use ray.util.state.summarize_objects()",
    "ray.internal": "Ray has taken it out too; " + _FREED,
    "ray._private": "it is private in Ray; docs/from-ray.md lists the private names that are there",
    "ray._private.worker.global_worker": "it has what docs/from-ray.md lists",
    "ray._raylet": "it is private in Ray; docs/from-ray.md lists the private names that are there",
    "ray.core": "it is private in Ray; docs/from-ray.md lists the private names that are there",
    "ray.widgets": "it draws Ray's own tables; the context that init returns draws itself",
}


def _rows() -> dict[str, dict[str, str]]:
    return {
        module: {name: home for home, text in homes.items() for name in text.split()}
        for module, homes in MODULES.items()
    }


_homes = _rows()


def home_of(module: str, name: str) -> str | None:
    """The module of ours in which a name of Ray's lives, None if the table has no such name."""
    return _homes.get(module, {}).get(name)


def public_names(module: str) -> list[str]:
    """What ``from module import *`` brings."""
    constants = [name for name in CONSTANTS.get(module, {}) if not name.startswith("__")]
    later = LATER.get(module, "").split()
    return sorted(name for name in (*_homes[module], *constants) if name not in later)


def missing(name: str) -> str:
    """The text for a name that is not there: what it was, and what to do instead."""
    prefix = name
    while prefix not in HINTS:
        prefix = prefix.rpartition(".")[0]
    return f"{name} does not exist in Shoal's layer for Ray: {HINTS[prefix]}"
