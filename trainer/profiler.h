// The profile that `log.profile` asks for: some steps of a run, recorded by LibTorch's profiler.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "base/file_system.h"
#include "trainer/run_config.h"
#include "trainer/run_observer.h"

namespace swiattn {

// Records what this thread and the GPU do in the steps asked for and writes, into a folder,
//   trace.json                  every operator, range and kernel, for Perfetto or chrome://tracing
//   kernels.txt, kernels.json   where the time went (trainer/profile_tables.h)
// The folder holds the files of one profile: they are written into FOLDER.tmp, which gets the name
// when they are done and durable, and what had it before keeps its own files as FOLDER.superseded
// (-2, …). A process that is killed while it writes leaves FOLDER.tmp to the next profile.
// Not for several threads. Never throws: what goes wrong is a warning, and the run goes on without
// a profile.
class Profiler {
 public:
  // Borrows `files` and `observer`. `device`: the one that the steps run on, by name in the tables.
  Profiler(FileSystem& files, std::string folder, const ProfileRange& steps, c10::Device device,
           std::string device_name, RunObserver& observer);
  ~Profiler();  // ends a recording without writing it

  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  // To be called before every step. Tells if the first of them is behind those to record. The one
  // before the first to record is run with the tracing switched on already: its start would count
  // for the first otherwise.
  void before_step(int64_t step);

  // Ends the recording, writes the files and says where they are; nothing where nothing was
  // recorded. Takes seconds for many kernels.
  void finish();

 private:
  enum class State { kOff, kPrepared, kRecording, kDone };

  void prepare();
  void start();
  void write();
  // Gives the folder what has been written; returns where the one before is kept, "" without one.
  // Throws FileError, with the one before in its place.
  std::string publish();
  void put_back(const std::string& before);
  void discard();  // what has been written

  FileSystem& files_;
  const std::string folder_;
  const std::string unfinished_;  // the folder while it is written
  const ProfileRange steps_;
  const c10::Device device_;
  const std::string device_name_;
  RunObserver& observer_;
  State state_ = State::kOff;
  int64_t first_step_ = 0;  // recorded
};

}  // namespace swiattn
