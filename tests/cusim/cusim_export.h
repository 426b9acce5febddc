// The C entry points by which Python launches a kernel: cusim_run_NAME, and cusim_sig_NAME, which tells the types of its
// parameters as NumPy's type characters ("Pf,i,f,": a pointer to float, an int, a float).
#pragma once
namespace cusim {
template <class T>
constexpr char code() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>) return 'f';
  else if constexpr (std::is_same_v<U, double>) return 'd';
  else if constexpr (std::is_same_v<U, int>) return 'i';
  else if constexpr (std::is_same_v<U, unsigned>) return 'I';
  else if constexpr (std::is_same_v<U, long>) return 'l';
  else if constexpr (std::is_same_v<U, long long>) return 'l';
  else if constexpr (std::is_same_v<U, unsigned long>) return 'L';
  else if constexpr (std::is_same_v<U, unsigned long long>) return 'L';
  else if constexpr (std::is_same_v<U, unsigned char>) return 'B';
  else if constexpr (std::is_same_v<U, bool>) return '?';
  else return sizeof(U) == 2 ? 'e' : 'v';
}
template <class... A>
const char* sig(void (*)(A...)) {
  static char s[3 * sizeof...(A) + 1];
  char* p = s;
  ((std::is_pointer_v<A> ? void(*p++ = 'P') : void(), *p++ = code<std::remove_pointer_t<A>>(), *p++ = ','), ...);
  *p = 0;
  return s;
}
}  // namespace cusim
#define CUSIM_C extern "C" __attribute__((visibility("default")))
#define CUSIM_UNPAREN(...) __VA_ARGS__
#define CUSIM_EXPORT(SYM, EXPR)                                                                         \
  CUSIM_C int cusim_run_##SYM(const unsigned* g, const unsigned* b, size_t smem, void** a, int flags) { \
    return cusim::launch(CUSIM_UNPAREN EXPR, g, b, smem, a, flags);                                     \
  }                                                                                                     \
  CUSIM_C const char* cusim_sig_##SYM() { return cusim::sig(CUSIM_UNPAREN EXPR); }
CUSIM_C const char* cusim_error() { return cusim::M.error; }
