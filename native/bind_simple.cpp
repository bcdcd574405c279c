// Values that need no pickle, and the bytes of those that have one.
#include <cstring>

#include "bindings.hpp"

namespace shoal {

bool simple_parts(PyObject* v, Simple& out) {
  out.data = {"", 0};  // copying nothing from nowhere is undefined
  if (v == Py_None) {
    out.format = NONE;
  } else if (v == Py_True || v == Py_False) {
    out.format = v == Py_True ? TRUE_ : FALSE_;
  } else if (PyLong_CheckExact(v)) {
    int overflow = 0;
    out.integer = PyLong_AsLongLongAndOverflow(v, &overflow);
    if (overflow) return false;
    out.format = INT;
    out.data = {&out.integer, 8};
  } else if (PyFloat_CheckExact(v)) {
    out.real = PyFloat_AS_DOUBLE(v);
    out.format = FLOAT;
    out.data = {&out.real, 8};
  } else if (PyBytes_CheckExact(v) && PyBytes_GET_SIZE(v) <= Py_ssize_t(INLINE_BYTES)) {
    out.format = BYTES;
    out.data = {PyBytes_AS_STRING(v), u64(PyBytes_GET_SIZE(v))};
  } else if (PyUnicode_CheckExact(v)) {
    if (PyUnicode_GET_LENGTH(v) > Py_ssize_t(INLINE_BYTES)) return false;
    Py_ssize_t n;
    const char* p = PyUnicode_AsUTF8AndSize(v, &n);
    if (!p) {
      PyErr_Clear();  // lone surrogates: the pickler knows them
      return false;
    }
    if (n > Py_ssize_t(INLINE_BYTES)) return false;
    out.format = STR;
    out.data = {p, u64(n)};
  } else {
    return false;
  }
  return true;
}

nb::object load_simple(u8 format, const void* data, u64 size) {
  switch (format) {
    case NONE:
      return nb::none();
    case TRUE_:
      return nb::borrow(Py_True);
    case FALSE_:
      return nb::borrow(Py_False);
    case INT: {
      i64 v;
      std::memcpy(&v, data, 8);
      return nb::steal(PyLong_FromLongLong(v));
    }
    case FLOAT: {
      double v;
      std::memcpy(&v, data, 8);
      return nb::steal(PyFloat_FromDouble(v));
    }
    case STR:
      return nb::steal(
          PyUnicode_FromStringAndSize(static_cast<const char*>(data), Py_ssize_t(size)));
    default: {
      PyObject* o = PyBytes_FromStringAndSize(nullptr, Py_ssize_t(size));
      if (!o) throw nb::python_error();
      nb::object keep = nb::steal(o);
      copy_without_gil(PyBytes_AS_STRING(o), data, size);
      return keep;
    }
  }
}

void copy_without_gil(void* to, const void* from, u64 size) {
  if (size < 256 * 1024) {
    if (size) std::memcpy(to, from, size);
    return;
  }
  Unlocked unlocked;
  platform::copy(to, from, size);
}

Bytes Buffers::add(PyObject* o) {
  Py_buffer v;
  if (PyObject_GetBuffer(o, &v, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    // A PickleBuffer of a Fortran-ordered array is contiguous, but not in C order: raw() knows.
    nb::object raw = nb::steal(PyObject_CallMethod(o, "raw", nullptr));
    if (!raw.is_valid() || PyObject_GetBuffer(raw.ptr(), &v, PyBUF_SIMPLE) != 0)
      throw nb::python_error();
  }
  views.push_back(v);
  return {v.buf, u64(v.len)};
}

}  // namespace shoal
